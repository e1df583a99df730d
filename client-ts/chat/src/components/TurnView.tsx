import { memo, type ReactNode, useState } from "react";
import type { Variants } from "../family.ts";
import { duration } from "../format.ts";
import { t } from "../i18n.ts";
import { Markdown } from "../markdown/Markdown.tsx";
import { isRunning, type Turn } from "../turn.ts";
import { CallCard } from "./CallCard.tsx";
import { CopyButton } from "./CopyButton.tsx";
import { EditForm } from "./EditForm.tsx";
import { Again, Back, Bin, Chevron, Forward, Pencil } from "./icons.tsx";
import { Thoughts } from "./Thoughts.tsx";
import { TurnBoundary } from "./TurnBoundary.tsx";
import { Waiting } from "./Waiting.tsx";

/** The actions on a turn. The functions must not change, so that earlier turns are not rendered again. */
export interface TurnActions {
  regenerate: () => void;
  continueAnswer: () => void;
  edit: (key: string, prompt: string) => void;
  remove: (key: string) => void;
  open: (conversation: string) => void;
}

interface TurnViewProps {
  turn: Turn;
  actions: TurnActions;
  isLast: boolean;
  /** Whether an answer of the conversation is running. */
  isBusy: boolean;
  variants: Variants | undefined;
}

/** Shows a turn. Earlier turns do not change, so they are not rendered again. */
export const TurnView = memo(
  function TurnView(props: TurnViewProps): ReactNode {
    return (
      <TurnBoundary turn={props.turn}>
        <Drawn {...props} />
      </TurnBoundary>
    );
  },
  (before, now) =>
    before.turn === now.turn &&
    before.isLast === now.isLast &&
    before.isBusy === now.isBusy &&
    before.actions === now.actions &&
    before.variants?.ids.join() === now.variants?.ids.join() &&
    before.variants?.index === now.variants?.index,
);

function Drawn(props: TurnViewProps): ReactNode {
  const { turn, isLast, isBusy, actions } = props;
  const running = isRunning(turn);
  const canContinue = isLast && !isBusy && turn.answer !== "" && (turn.status === "cut" || turn.status === "stopped");
  return (
    <section className="turn" data-status={turn.status} data-response-id={turn.responseId} data-settled={!isLast}>
      <Question {...props} />
      <div className="answer" aria-busy={running}>
        <h2 className="sr-only">{t("answer")}</h2>
        {turn.status === "waiting" && turn.answer === "" && <Waiting turn={turn} />}
        {turn.thinking && <Thoughts thinking={turn.thinking} running={running} />}
        <div className="prose">
          <Markdown text={turn.answer} unfinished={turn.status !== "done"} />
        </div>
        {turn.calls?.map((call) => (
          <CallCard key={call.id} call={call} running={running} />
        ))}
        {turn.status === "waiting" && turn.answer !== "" && <Waiting turn={turn} />}
        {running && turn.recovering && <p className="outcome">{t("recovering")}</p>}
        {turn.wasHandedOver && <p className="outcome">{t("handedOver")}</p>}
        {turn.droppedTurns ? <p className="outcome">{t("dropped", { n: turn.droppedTurns })}</p> : null}
        <Outcome turn={turn} onRetry={isLast && !isBusy ? actions.regenerate : undefined} />
        <div className="meta">
          {!running && turn.answer !== "" && <CopyButton text={turn.answer} label={t("copyAnswer")} />}
          {isLast && !isBusy && turn.status !== "failed" && (
            <button type="button" className="quiet" onClick={actions.regenerate} aria-label={t("regenerateAnswer")}>
              <Again />
              <span aria-hidden="true">{t("regenerate")}</span>
            </button>
          )}
          {canContinue && (
            <button type="button" className="quiet" onClick={actions.continueAnswer} aria-label={t("continueAnswer")}>
              <Forward />
              <span aria-hidden="true">{t("goOn")}</span>
            </button>
          )}
          <Figures turn={turn} />
        </div>
      </div>
    </section>
  );
}

function Question({ turn, isBusy, actions, variants }: TurnViewProps): ReactNode {
  const [editing, setEditing] = useState(false);
  const save = (prompt: string): void => {
    setEditing(false);
    actions.edit(turn.key, prompt);
  };
  return (
    <div className="question">
      <h2 className="sr-only">{t("you")}</h2>
      {editing ? (
        <EditForm text={turn.prompt} onSave={save} onCancel={() => setEditing(false)} />
      ) : (
        <p>{turn.prompt}</p>
      )}
      {turn.attachments?.map(({ name, text }, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: attachments never change
        <details key={index} className="attached">
          <summary>{name}</summary>
          <pre>{text.slice(0, 20_000)}</pre>
        </details>
      ))}
      <div className="question-meta">
        {variants && <Versions variants={variants} onOpen={actions.open} />}
        {!isBusy && !editing && (
          <>
            <button type="button" className="quiet" aria-label={t("editMessage")} onClick={() => setEditing(true)}>
              <Pencil />
            </button>
            <button
              type="button"
              className="quiet"
              aria-label={t("deleteTurnLabel")}
              onClick={() => actions.remove(turn.key)}
            >
              <Bin />
            </button>
          </>
        )}
      </div>
    </div>
  );
}

function Versions({
  variants: { ids, index },
  onOpen,
}: {
  variants: Variants;
  onOpen: (id: string) => void;
}): ReactNode {
  const step = (by: number) => (): void => {
    const id = ids[index + by];
    if (id !== undefined) onOpen(id);
  };
  return (
    <fieldset className="versions" aria-label={t("variant", { n: index + 1, of: ids.length })}>
      <button
        type="button"
        className="quiet"
        disabled={index === 0}
        onClick={step(-1)}
        aria-label={t("previousVariant")}
      >
        <Back />
      </button>
      <span>
        {index + 1}/{ids.length}
      </span>
      <button
        type="button"
        className="quiet"
        disabled={index === ids.length - 1}
        onClick={step(1)}
        aria-label={t("nextVariant")}
      >
        <Chevron />
      </button>
    </fieldset>
  );
}

function Outcome({ turn, onRetry }: { turn: Turn; onRetry: (() => void) | undefined }): ReactNode {
  if (turn.status === "stopped") return <p className="outcome">{t("stopped")}</p>;
  if (turn.status === "cut") return <p className="outcome">{t("cut")}</p>;
  if (turn.status !== "failed") return null;
  return (
    <div className="problem" role="alert">
      <p>{turn.problem?.message ?? t("wrong")}</p>
      {onRetry && turn.problem?.canRetry !== false && (
        <button type="button" onClick={onRetry}>
          {t("tryAgain")}
        </button>
      )}
    </div>
  );
}

function Figures({ turn }: { turn: Turn }): ReactNode {
  const { firstTokenAt, askedAt, tokensPerSecond, tokens, where, cached, awaitsJoin } = turn;
  return (
    <p className="figures">
      {where !== undefined && (
        <span className="figure where-ran">{where === "browser" ? t("browser") : t("server")}</span>
      )}
      {awaitsJoin && !isRunning(turn) && (
        <span className="figure" title={t("notJoinedTitle")}>
          {t("notJoined")}
        </span>
      )}
      {cached && (
        <span className="figure cached" title={t("cachedTitle")}>
          {t("cached")}
        </span>
      )}
      {firstTokenAt !== undefined && askedAt !== undefined && (
        <span className="figure">
          <abbr title={t("ttft")}>TTFT</abbr> {duration(firstTokenAt - askedAt)}
        </span>
      )}
      {tokensPerSecond !== undefined && (
        <span className="figure">
          {tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : Math.round(tokensPerSecond)}{" "}
          <abbr title={t("tps")}>tok/s</abbr>
        </span>
      )}
      {tokens !== undefined && <span className="figure">{tokens === 1 ? t("token") : t("tokens", { n: tokens })}</span>}
    </p>
  );
}
