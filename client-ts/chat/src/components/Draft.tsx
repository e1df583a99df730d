import { type ReactNode, type RefObject, useCallback, useEffect, useState, useSyncExternalStore } from "react";
import type { ChatStore } from "../chat-store.ts";
import { currentLanguage, t } from "../i18n.ts";
import type { Attachment } from "../turn.ts";
import { Composer, type ComposerProps } from "./Composer.tsx";
import { ContextMeter } from "./ContextMeter.tsx";

interface DraftProps extends Omit<ComposerProps, "ref" | "onSend" | "onDraft"> {
  store: ChatStore;
  message: RefObject<HTMLTextAreaElement | null>;
  onSend: (prompt: string, attachments: readonly Attachment[]) => void;
}

interface Written {
  readonly text: string;
  readonly attachments: readonly Attachment[];
}

interface Counted {
  /** The tokens of the prompt with all turns. */
  readonly total: number;
  /** The tokens of the prompt without earlier turns; counted only if the whole prompt does not fit. */
  readonly alone: number;
}

const PAUSE_MS = 400;
/** Upper bound of the tokens around the text: those of the template and of short instructions. */
const TOKENS_AROUND = 512;

/** Shows the message box, and how full the model's context is with the draft. Warns before sending if the prompt does not fit. */
export function Draft({ store, message, onSend, ...composer }: DraftProps): ReactNode {
  const { turns, models, model, settings } = useSyncExternalStore(store.subscribe, store.snapshot);
  const { engine, isOffline } = useSyncExternalStore(store.place.subscribe, store.place.snapshot);
  const [written, setWritten] = useState<Written>(NOTHING);
  const [counted, setCounted] = useState<Counted>();
  const onDraft = useCallback((text: string, attachments: readonly Attachment[]): void => {
    setWritten({ text, attachments });
  }, []);
  const isHere = engine.status === "ready" && (settings.policy === "local" || isOffline);
  const length = isHere ? engine.info.contextLength : models.find(({ id }) => id === model)?.context_length;
  const used = turns.findLast(({ totalTokens }) => totalTokens !== undefined)?.totalTokens;
  const { text, attachments } = written;
  const isEmpty = text.trim() === "" && attachments.length === 0;

  // biome-ignore lint/correctness/useExhaustiveDependencies: another answer changes the count
  useEffect(() => {
    if (isEmpty || length === undefined) return setCounted(undefined);
    let isLatest = true;
    const timer = setTimeout(() => {
      count(store, { text, attachments }, length).then(
        (counted) => isLatest && setCounted(counted),
        // Without a count the message can be sent; the server checks its length.
        () => isLatest && setCounted(undefined),
      );
    }, PAUSE_MS);
    return () => {
      isLatest = false;
      clearTimeout(timer);
    };
  }, [store, text, attachments, isEmpty, length, used]);

  const send = async (prompt: string, files: readonly Attachment[]): Promise<boolean> => {
    const bytes = new TextEncoder().encode([prompt, ...files.map(({ text }) => text)].join("")).length;
    // A token has at least one byte.
    if (length !== undefined && bytes + TOKENS_AROUND >= length) {
      const counted = await count(store, { text: prompt, attachments: files }, length).catch(() => undefined);
      setCounted(counted);
      if (counted && counted.alone >= length) return false;
    }
    onSend(prompt, files);
    return true;
  };
  const isTooLong = counted !== undefined && length !== undefined && counted.alone >= length;
  const room = Math.min(settings.maxTokens ?? Number.POSITIVE_INFINITY, Math.floor((length ?? 0) / 4));
  const dropsTurns = counted !== undefined && length !== undefined && !isTooLong && counted.total > length - room;
  return (
    <>
      {isTooLong && (
        <p className="draft-note problem-words" role="alert">
          {t("messageTooLong", { numbers: t("ofTokens", { tokens: number(counted.alone), most: number(length) }) })}
        </p>
      )}
      {dropsTurns && turns.length > 0 && (
        <p className="draft-note" role="status">
          {t("willDrop")}
        </p>
      )}
      <Composer ref={message} {...composer} onSend={send} onDraft={onDraft} />
      <ContextMeter used={counted?.total ?? used} of={length} />
    </>
  );
}

const NOTHING: Written = { text: "", attachments: [] };

async function count(store: ChatStore, { text, attachments }: Written, length: number): Promise<Counted> {
  const total = await store.countTokens(text, attachments);
  return { total, alone: total < length ? 0 : await store.countTokens(text, attachments, true) };
}

function number(value: number): string {
  return value.toLocaleString(currentLanguage());
}
