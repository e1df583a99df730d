import {
  type ChangeEvent,
  type ClipboardEvent,
  type FormEvent,
  type KeyboardEvent,
  type ReactNode,
  type RefObject,
  useEffect,
  useLayoutEffect,
  useRef,
  useState,
} from "react";
import { isLongPaste, readText } from "../attachments.ts";
import { t } from "../i18n.ts";
import { isTouch } from "../touch.ts";
import type { Attachment } from "../turn.ts";
import { ArrowUp, Clip, Cross, Stop } from "./icons.tsx";

export interface ComposerProps {
  ref: RefObject<HTMLTextAreaElement | null>;
  running: boolean;
  stopping: boolean;
  /** Resolves to whether the message was sent. If not, it stays in the box. */
  onSend: (prompt: string, attachments: readonly Attachment[]) => Promise<boolean>;
  /** Called when the draft changes. Must be the same function at each render. */
  onDraft: (text: string, attachments: readonly Attachment[]) => void;
  onStop: () => void;
}

export function Composer({ ref, running, stopping, onSend, onStop, onDraft }: ComposerProps): ReactNode {
  const [text, setText] = useState("");
  const [attachments, setAttachments] = useState<readonly Attachment[]>([]);
  const [problem, setProblem] = useState("");
  const sending = useRef(false);
  const ready = (text.trim() !== "" || attachments.length > 0) && !stopping;
  const steers = running && ready;

  // biome-ignore lint/correctness/useExhaustiveDependencies: the box is as high as its text
  useLayoutEffect(() => {
    const box = ref.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }, [text, ref]);

  useEffect(() => onDraft(text, attachments), [onDraft, text, attachments]);

  useEffect(() => {
    if (!isTouch()) ref.current?.focus({ preventScroll: true });
  }, [ref]);

  useEffect(() => {
    if (!running) return;
    const onEscape = (event: globalThis.KeyboardEvent): void => {
      if (event.key === "Escape" && !event.isComposing && !event.defaultPrevented) onStop();
    };
    window.addEventListener("keydown", onEscape);
    return () => window.removeEventListener("keydown", onEscape);
  }, [running, onStop]);

  const send = async (): Promise<void> => {
    if (!ready || sending.current) return;
    sending.current = true;
    const isSent = await onSend(text.trim(), attachments).finally(() => {
      sending.current = false;
    });
    if (!isSent) return;
    // Text that the user has typed meanwhile stays.
    setText((now) => (now === text ? "" : now));
    setAttachments((now) => (now === attachments ? [] : now));
    setProblem("");
  };
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (running) onStop();
    else void send();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // On a touch keyboard Enter makes a new line, because there is no Shift key to hold.
    const sends = event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing && !isTouch();
    if (!sends) return;
    event.preventDefault();
    void send();
  };
  const attach = async (files: Iterable<File>): Promise<void> => {
    for (const file of files) {
      const attachment = await readText(file);
      if (attachment) setAttachments((before) => [...before, attachment]);
      else setProblem(t("notText", { name: file.name }));
    }
  };
  const onFiles = (event: ChangeEvent<HTMLInputElement>): void => {
    const files = [...(event.target.files ?? [])];
    event.target.value = "";
    void attach(files);
  };
  const onPaste = (event: ClipboardEvent): void => {
    const pasted = event.clipboardData.getData("text/plain");
    if (!isLongPaste(pasted)) return;
    event.preventDefault();
    setAttachments((before) => [...before, { name: `${t("pasted")} ${before.length + 1}`, text: pasted }]);
  };

  const label = running ? t(stopping ? "stopping" : "stop") : t("send");
  return (
    <form
      className="composer"
      part="composer"
      onSubmit={submit}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        void attach([...event.dataTransfer.files]);
      }}
    >
      {(attachments.length > 0 || problem !== "") && (
        <div className="chips">
          {attachments.map(({ name, text }, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: names need not differ
            <span key={index} className="chip">
              <span className="chip-name">{name}</span>
              <span className="chip-size">{size(text)}</span>
              <button
                type="button"
                aria-label={t("detach", { name })}
                onClick={() => setAttachments(attachments.filter((_, at) => at !== index))}
              >
                <Cross />
              </button>
            </span>
          ))}
          {problem !== "" && <span role="alert">{problem}</span>}
        </div>
      )}
      <label className="attach" title={t("attach")}>
        <Clip />
        <input type="file" multiple className="sr-only" aria-label={t("attach")} onChange={onFiles} />
      </label>
      <label className="sr-only" htmlFor="message">
        {t("yourMessage")}
      </label>
      <textarea
        ref={ref}
        id="message"
        rows={1}
        placeholder={running ? t("askMeanwhile") : t("ask")}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
        onPaste={onPaste}
        aria-describedby="keys"
      />
      {steers && (
        <button type="button" className="send" onClick={() => void send()} aria-label={t("steer")} title={t("steer")}>
          <ArrowUp />
        </button>
      )}
      <button
        type="submit"
        className={running ? "send stop" : "send"}
        aria-label={label}
        aria-disabled={running ? stopping : !ready}
        title={running ? t("stopHint") : t("sendHint")}
      >
        {running ? <Stop /> : <ArrowUp />}
      </button>
      <p id="keys" className="sr-only">
        {t("keysHint")}
      </p>
    </form>
  );
}

function size(text: string): string {
  return text.length < 1024 ? `${text.length} B` : `${Math.round(text.length / 1024)} KB`;
}
