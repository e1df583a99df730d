import { type ReactNode, useEffect, useState } from "react";
import { placeInQueue } from "../format.ts";
import { t } from "../i18n.ts";
import type { Turn } from "../turn.ts";

/** Shows why no part of the answer has arrived yet, if the reason is known. */
export function Waiting({ turn: { queue, retryAt, loading } }: { turn: Turn }): ReactNode {
  return (
    <p className="waiting">
      <span className="pulse" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {loading !== undefined ? (
        <span>{t("loadingHere", { part: Math.floor(loading * 100) })}</span>
      ) : retryAt !== undefined ? (
        <Countdown to={retryAt} />
      ) : (
        queue && queue.position > 0 && <span>{placeInQueue(queue)}</span>
      )}
    </p>
  );
}

function Countdown({ to }: { to: number }): ReactNode {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, []);
  const seconds = Math.ceil((to - now) / 1000);
  return <span>{seconds > 0 ? t("busyIn", { n: seconds }) : t("busyNow")}</span>;
}
