import type { ReactNode } from "react";
import type { Thinking } from "../turn.ts";
import { duration } from "../words.ts";
import { Chevron } from "./icons.tsx";

/** What the model thought, closed until the reader asks for it. */
export function Thoughts({ thinking, running }: { thinking: Thinking; running: boolean }): ReactNode {
  const { text, ms, over } = thinking;
  const now = running && !over;
  return (
    <details className="thoughts" data-now={now}>
      <summary>
        <Chevron />
        {now ? "Thinking…" : ms === undefined ? "Thoughts" : `Thought for ${duration(ms)}`}
      </summary>
      <p>{text}</p>
    </details>
  );
}
