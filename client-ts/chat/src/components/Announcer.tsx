import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { placeInQueue } from "../format.ts";
import { t } from "../i18n.ts";
import { isRunning, type Turn } from "../turn.ts";

interface AnnouncerProps {
  turn: Turn | undefined;
  connection: ConnectionState;
  /** `true`: there is no connection because the server asks for a token. */
  needsToken: boolean;
}

/** Announces changes to a screen reader: one sentence for each change, none for streamed words. */
export function Announcer({ turn, connection, needsToken }: AnnouncerProps): ReactNode {
  const words = useNews(turnNews(turn));
  const link = useNews(linkNews(connection, needsToken));
  return (
    <div className="sr-only">
      <p role="status">{words}</p>
      <p role="status">{link}</p>
    </div>
  );
}

/** Returns the text once it changes. The first text is not announced. */
function useNews(now: string): string {
  const first = useRef<string | undefined>(now);
  const [news, setNews] = useState("");
  useEffect(() => {
    if (now === first.current) return;
    first.current = undefined;
    setNews(now);
  }, [now]);
  return news;
}

function linkNews({ status }: ConnectionState, needsToken: boolean): string {
  if (needsToken) return t("asksToken");
  return status === "waiting" || status === "failed" ? t("lostNews") : t("connectedNews");
}

function turnNews(turn: Turn | undefined): string {
  if (!turn) return "";
  if (turn.status === "waiting" && turn.retryAt !== undefined) return t("busySoon");
  if (turn.status === "waiting" && turn.queue && turn.queue.position > 0) return `${placeInQueue(turn.queue)}.`;
  if (isRunning(turn) && turn.loading !== undefined) return t("answersHereNews");
  if (isRunning(turn)) return turn.recovering ? t("recovering") : t("answering");
  if (turn.status === "stopped") return t("saidStopped");
  if (turn.status === "failed") return "";
  return turn.status === "cut" ? t("saidCut") : t("complete");
}
