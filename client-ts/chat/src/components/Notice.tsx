import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useState } from "react";
import { t } from "../i18n.ts";

/** The notice appears after this long without a connection. */
const PATIENCE_MS = 1500;

interface NoticeProps {
  connection: ConnectionState;
  /** Whether an answer is running. */
  running: boolean;
  /** Whether this browser answers while there is no connection. */
  answersHere: boolean;
  onRetry: () => void;
  /** Continues the answer in this browser; `undefined` if that is not possible. */
  onHandOver: (() => void) | undefined;
  /** Whether a part of the answer has arrived. */
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
