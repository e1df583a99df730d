import type { ConnectionState } from "caudal-client";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { isRunning, type Turn } from "../turn.ts";
import { placeInQueue } from "../words.ts";

interface AnnouncerProps {
  turn: Turn | undefined;
  connection: ConnectionState;
}

/** Tells a screen reader what changed, a sentence for each change and none for each word. */
export function Announcer({ turn, connection }: AnnouncerProps): ReactNode {
  const words = useNews(turnNews(turn));
  const lost = connection.status === "waiting" || connection.status === "failed";
  const link = useNews(lost ? "The connection is lost. Reconnecting." : "Connected.");
  return (
    <div className="sr-only">
      <p role="status">{words}</p>
      <p role="status">{link}</p>
    </div>
  );
}

/** What is so when the page opens is no news. */
function useNews(now: string): string {
  const first = useRef(now);
  const [news, setNews] = useState("");
  useEffect(() => {
    if (now === first.current) return;
    first.current = "";
    setNews(now);
  }, [now]);
  return news;
}

function turnNews(turn: Turn | undefined): string {
  if (!turn) return "";
  if (turn.status === "waiting" && turn.retryAt !== undefined) return "The server is busy. Trying again soon.";
  if (turn.status === "waiting" && turn.queue && turn.queue.position > 0) return `${placeInQueue(turn.queue)}.`;
  if (isRunning(turn)) return "Answering.";
  if (turn.status === "stopped") return "Stopped.";
  if (turn.status === "failed") return "";
  return turn.status === "cut" ? "The answer reached its length limit." : "The answer is complete.";
}
