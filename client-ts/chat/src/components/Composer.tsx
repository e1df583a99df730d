import {
  type FormEvent,
  type KeyboardEvent,
  type ReactNode,
  type RefObject,
  useEffect,
  useLayoutEffect,
  useState,
} from "react";
import { isTouch } from "../touch.ts";
import { ArrowUp, Stop } from "./icons.tsx";

interface ComposerProps {
  ref: RefObject<HTMLTextAreaElement | null>;
  running: boolean;
  stopping: boolean;
  onSend: (prompt: string) => void;
  onStop: () => void;
}

export function Composer({ ref, running, stopping, onSend, onStop }: ComposerProps): ReactNode {
  const [text, setText] = useState("");
  const ready = text.trim() !== "" && !running;

  // biome-ignore lint/correctness/useExhaustiveDependencies: the box is as high as its text
  useLayoutEffect(() => {
    const box = ref.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  }, [text, ref]);

  useEffect(() => {
    if (!isTouch()) ref.current?.focus({ preventScroll: true });
  }, [ref]);

  useEffect(() => {
    if (!running) return;
    const onEscape = (event: globalThis.KeyboardEvent): void => {
      if (event.key === "Escape" && !event.isComposing) onStop();
    };
    window.addEventListener("keydown", onEscape);
    return () => window.removeEventListener("keydown", onEscape);
  }, [running, onStop]);

  const submit = (event?: FormEvent): void => {
    event?.preventDefault();
    if (running) return onStop();
    if (!ready) return;
    onSend(text.trim());
    setText("");
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // On a touch keyboard Enter is a new line: there is no Shift to hold.
    const sends = event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing && !isTouch();
    if (!sends) return;
    event.preventDefault();
    if (!running) submit();
  };

  const label = running ? (stopping ? "Stopping" : "Stop") : "Send";
  return (
    <form className="composer" onSubmit={submit}>
      <label className="sr-only" htmlFor="message">
        Your message
      </label>
      <textarea
        ref={ref}
        id="message"
        rows={1}
        placeholder="Ask anything"
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
        aria-describedby="keys"
      />
      <button
        type="submit"
        className={running ? "send stop" : "send"}
        aria-label={label}
        aria-disabled={running ? stopping : !ready}
        title={running ? "Stop (Esc)" : "Send (Enter)"}
      >
        {running ? <Stop /> : <ArrowUp />}
      </button>
      <p id="keys" className="sr-only">
        Enter sends, Shift and Enter makes a new line, Escape stops an answer.
      </p>
    </form>
  );
}
