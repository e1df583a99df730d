import type { ReactNode } from "react";
import { duration } from "../format.ts";
import { t } from "../i18n.ts";
import type { Thinking } from "../turn.ts";
import { Chevron } from "./icons.tsx";

/** Shows the model's reasoning, folded until the user opens it. */
export function Thoughts({ thinking, running }: { thinking: Thinking; running: boolean }): ReactNode {
  const { text, ms, over } = thinking;
  const now = running && !over;
  return (
    <details className="thoughts" data-now={now}>
      <summary>
        <Chevron />
        {now ? t("thinking") : ms === undefined ? t("thoughts") : t("thoughtFor", { time: duration(ms) })}
      </summary>
      <p>{text}</p>
    </details>
  );
}
