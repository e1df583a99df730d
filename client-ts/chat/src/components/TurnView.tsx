import { memo, type ReactNode } from "react";
import { Markdown } from "../markdown/Markdown.tsx";
import { isRunning, type Turn } from "../turn.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Again } from "./icons.tsx";

interface TurnViewProps {
  turn: Turn;
  /** Given for the last turn only, and not while it runs. */
  onRegenerate: (() => void) | undefined;
}

/** Earlier turns never change, so they are never drawn again. */
export const TurnView = memo(function TurnView({ turn, onRegenerate }: TurnViewProps): ReactNode {
  const running = isRunning(turn);
  return (
    <section className="turn" data-status={turn.status} data-response-id={turn.responseId}>
      <div className="question">
        <h2 className="sr-only">You</h2>
        <p>{turn.prompt}</p>
      </div>
      <div className="answer" aria-busy={running}>
        <h2 className="sr-only">Answer</h2>
        {turn.status === "waiting" && <Waiting turn={turn} />}
        <div className="prose">
          <Markdown text={turn.answer} unfinished={turn.status !== "done"} />
        </div>
        <Outcome turn={turn} onRegenerate={onRegenerate} />
        <div className="meta">
          {!running && turn.answer !== "" && <CopyButton text={turn.answer} label="Copy answer" />}
          {onRegenerate && turn.status !== "failed" && (
            <button type="button" className="quiet" onClick={onRegenerate} aria-label="Regenerate answer">
              <Again />
              <span aria-hidden="true">Regenerate</span>
            </button>
          )}
          <Figures turn={turn} />
        </div>
      </div>
    </section>
  );
});

function Waiting({ turn }: { turn: Turn }): ReactNode {
  return (
    <p className="waiting">
      <span className="pulse" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {turn.queue && turn.queue.position > 0 && <span>{placeInQueue(turn.queue)}</span>}
    </p>
  );
}

function Outcome({ turn, onRegenerate }: TurnViewProps): ReactNode {
  if (turn.status === "stopped") return <p className="outcome">This answer was stopped.</p>;
  if (turn.status === "cut") return <p className="outcome">This answer reached its length limit.</p>;
  if (turn.status !== "failed") return null;
  return (
    <div className="problem" role="alert">
      <p>{turn.problem?.message ?? "Something went wrong."}</p>
      {onRegenerate && turn.problem?.canRetry !== false && (
        <button type="button" onClick={onRegenerate}>
          Try again
        </button>
      )}
    </div>
  );
}

function Figures({ turn }: { turn: Turn }): ReactNode {
  const { firstTokenAt, askedAt, tokensPerSecond, tokens } = turn;
  return (
    <p className="figures">
      {firstTokenAt !== undefined && (
        <span className="figure">
          <abbr title="Time to the first token">TTFT</abbr> {duration(firstTokenAt - askedAt)}
        </span>
      )}
      {tokensPerSecond !== undefined && (
        <span className="figure">
          {tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : Math.round(tokensPerSecond)}{" "}
          <abbr title="Tokens per second">tok/s</abbr>
        </span>
      )}
      {tokens !== undefined && <span className="figure">{tokens === 1 ? "1 token" : `${tokens} tokens`}</span>}
    </p>
  );
}

export function placeInQueue({ position, estimatedWaitMs }: NonNullable<Turn["queue"]>): string {
  const ahead = position === 1 ? "Next in line" : `Number ${position} in line`;
  return estimatedWaitMs === undefined ? ahead : `${ahead}, about ${duration(Math.max(1000, estimatedWaitMs))}`;
}

function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}
