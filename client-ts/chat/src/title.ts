import type { CaudalClient } from "caudal-client";

const MOST_TOKENS = 24;
const LONGEST = 60;
const EXCERPT = 600;

const INSTRUCTIONS =
  "Write a title of two to six words for the conversation that the user shows you. Answer with the title only, in the language of the conversation.";

/** Asks the model for a title. Resolves to the question's first words if the model gives none. Other requests go first. */
export async function titleOf(
  client: CaudalClient,
  { prompt, answer, model, signal }: { prompt: string; answer: string; model: string | undefined; signal: AbortSignal },
): Promise<string> {
  const handle = client.responses.create(
    {
      ...(model === undefined ? {} : { model }),
      instructions: INSTRUCTIONS,
      input: `Question: ${prompt.slice(0, EXCERPT)}\n\nAnswer: ${answer.slice(0, EXCERPT)}\n\nTitle:`,
      temperature: 0.2,
      max_output_tokens: MOST_TOKENS,
      store: false,
      service_tier: "flex",
      metadata: { purpose: "title" },
    },
    { cancelSignal: signal },
  );
  let text = "";
  for await (const piece of handle.text()) text += piece;
  if (signal.aborted) throw new DOMException("Another question goes first.", "AbortError");
  return tidy(text) || firstWords(prompt);
}

/** Returns the first line without label, quotes and Markdown; empty if the text is no title. */
export function tidy(text: string): string {
  const line = text.trim().split("\n")[0] ?? "";
  const bare = line.replace(/^title:\s*/i, "").replace(/^["'#*\s“«]+|["'*\s.”»:]+$/g, "");
  return isAnswer(bare) ? "" : firstWords(bare);
}

/** Whether the text is a sentence or code: small models may answer the question again instead of naming it. */
function isAnswer(text: string): boolean {
  return text.length > LONGEST || /^(```|(here('s| is| are)|sure|of course|the title|i )\b)/i.test(text);
}

export function firstWords(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= LONGEST) return line;
  return `${line.slice(0, LONGEST - 1).replace(/\s\S*$/, "")}…`;
}
