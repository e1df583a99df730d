import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useState } from "react";
import { t } from "../i18n.ts";

/** A connection that comes back within this is nobody's concern. */
const PATIENCE_MS = 1500;

interface NoticeProps {
  connection: ConnectionState;
  /** Whether an answer is under way. */
  running: boolean;
  onRetry: () => void;
}

export function Notice({ connection, running, onRetry }: NoticeProps): ReactNode {
  const lost = connection.status !== "connected";
  const [shown, setShown] = useState(false);
  useEffect(() => {
    if (!lost) return setShown(false);
    const timer = setTimeout(() => setShown(true), PATIENCE_MS);
    return () => clearTimeout(timer);
  }, [lost]);
  if (!lost || !(shown || connection.status === "failed")) return null;
  return (
    <div className="notice">
      <p>{wordsFor(connection, running)}</p>
      <button type="button" onClick={onRetry}>
        {t("tryNow")}
      </button>
    </div>
  );
}

function wordsFor(connection: ConnectionState, running: boolean): string {
  if (connection.status === "failed") return t("ended", { message: connection.error.message });
  if (running) return t("lostRunning");
  return t("lost");
}
