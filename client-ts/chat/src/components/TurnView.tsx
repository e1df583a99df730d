import { memo, type ReactNode } from "react";
import { Markdown } from "../markdown/Markdown.tsx";
import { isRunning, type Turn } from "../turn.ts";
import { duration } from "../words.ts";
import { CallCard } from "./CallCard.tsx";
import { CopyButton } from "./CopyButton.tsx";
import { Again } from "./icons.tsx";
import { Thoughts } from "./Thoughts.tsx";
import { TurnBoundary } from "./TurnBoundary.tsx";
import { Waiting } from "./Waiting.tsx";

interface TurnViewProps {
  turn: Turn;
  /** Given for the last turn only, and not while it runs. */
  onRegenerate: (() => void) | undefined;
}

/** Earlier turns never change, so they are never drawn again. */
export const TurnView = memo(function TurnView(props: TurnViewProps): ReactNode {
  return (
    <TurnBoundary turn={props.turn}>
      <Drawn {...props} />
    </TurnBoundary>
  );
});

function Drawn({ turn, onRegenerate }: TurnViewProps): ReactNode {
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
        {turn.thinking && <Thoughts thinking={turn.thinking} running={running} />}
        <div className="prose">
          <Markdown text={turn.answer} unfinished={turn.status !== "done"} />
        </div>
        {turn.calls?.map((call) => (
          <CallCard key={call.id} call={call} running={running} />
        ))}
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
      {firstTokenAt !== undefined && askedAt !== undefined && (
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
