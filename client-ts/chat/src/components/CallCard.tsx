import type { ReactNode } from "react";
import { t } from "../i18n.ts";
import type { Call } from "../turn.ts";
import { Braces } from "./icons.tsx";

/** Shows a function call: its name, and the arguments as they stream. */
export function CallCard({ call, running }: { call: Call; running: boolean }): ReactNode {
  const args = call.done ? tidy(call.arguments) : call.arguments;
  return (
    <figure className="call">
      <figcaption>
        <Braces />
        <span>
          {running && !call.done ? t("calling") : t("callOf")} <code>{call.name}</code>
        </span>
      </figcaption>
      {args !== "" && args !== "{}" && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, so the keyboard must reach it
        <section className="call-arguments" aria-label={t("argumentsOf", { name: call.name })} tabIndex={0}>
          <pre>
            <code>{args}</code>
          </pre>
        </section>
      )}
      {call.output !== undefined && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, so the keyboard must reach it
        <section className="call-arguments call-output" aria-label={t("resultOf", { name: call.name })} tabIndex={0}>
          <pre>
            <code>{tidy(call.output)}</code>
          </pre>
        </section>
      )}
    </figure>
  );
}

/** Formats arguments: short ones on one line, others on a line each. Text that is not a JSON object stays unchanged. */
function tidy(json: string): string {
  try {
    const value: unknown = JSON.parse(json);
    const line = JSON.stringify(value);
    if (line.length <= 60 || typeof value !== "object" || value === null || Array.isArray(value)) return line;
    const lines = Object.entries(value).map(([key, of]) => `  ${JSON.stringify(key)}: ${JSON.stringify(of)}`);
    return `{\n${lines.join(",\n")}\n}`;
  } catch {
    return json;
  }
}
