import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { placeInQueue } from "../format.ts";
import { t } from "../i18n.ts";
import { isRunning, type Turn } from "../turn.ts";

interface AnnouncerProps {
  turn: Turn | undefined;
  connection: ConnectionState;
  /** There is no connection for want of a token. */
  needsToken: boolean;
}

/** Tells a screen reader what changed, a sentence for each change and none for each word. */
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

/** What is so when the page opens is no news. */
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
