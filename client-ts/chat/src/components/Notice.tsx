import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useState } from "react";
import { t } from "../i18n.ts";

/** A connection that comes back within this is nobody's concern. */
const PATIENCE_MS = 1500;

interface NoticeProps {
  connection: ConnectionState;
  /** Whether an answer is under way. */
  running: boolean;
  /** Whether this browser answers questions while there is no server. */
  answersHere: boolean;
  onRetry: () => void;
  /** Goes on with the answer in this browser, where that can be done. */
  onHandOver: (() => void) | undefined;
  /** Something of the answer is here. */
  hasBegun: boolean;
}

export function Notice(props: NoticeProps): ReactNode {
  const { connection, onRetry, onHandOver, hasBegun } = props;
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
      <p>{wordsFor(props)}</p>
      {onHandOver && (
        <button type="button" onClick={onHandOver}>
          {t(hasBegun ? "handOver" : "answerHere")}
        </button>
      )}
      <button type="button" onClick={onRetry}>
        {t("tryNow")}
      </button>
    </div>
  );
}

function wordsFor({ connection, running, answersHere }: NoticeProps): string {
  if (connection.status === "failed") return t("ended", { message: connection.error.message });
  if (running) return t("lostRunning");
  return t(answersHere ? "lostHere" : "lost");
}
