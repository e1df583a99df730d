/** Leaves the oldest turns out of a prompt that does not fit, by the rules of the server's `truncation: "auto"`. */

import { apiError } from "../errors.ts";
import type { InputItem, ResponseCreateParams } from "../index.ts";
import { textOf } from "./request.ts";

/** Upper bound of the tokens that a chat template adds to one message. */
const TOKENS_AROUND = 64;

export interface Fitted {
  items: readonly InputItem[];
  droppedTurns: number;
}

/**
 * Returns the items of a prompt that leaves room for the output. `count` counts the tokens of a prompt with these
 * items; it runs only if the length of the text does not prove that the prompt fits. Throws `context_length_exceeded`
 * as the server does.
 */
export async function fitted(
  items: readonly InputItem[],
  params: ResponseCreateParams,
  contextLength: number,
  count: (items: readonly InputItem[]) => Promise<number>,
): Promise<Fitted> {
  if (mostTokens(items, params) < contextLength - roomOf(params, contextLength)) return { items, droppedTurns: 0 };
  const isAuto = params.truncation === "auto";
  const most = isAuto ? contextLength - roomOf(params, contextLength) : contextLength - 1;
  const starts = items.flatMap((item, at) => ("role" in item && item.role === "user" ? [at] : []));
  const from = (turns: number): readonly InputItem[] => {
    const start = starts[turns] ?? 0;
    return turns === 0 ? items : items.filter((item, at) => at >= start || isInstruction(item));
  };
  let least = 0;
  let enough = isAuto ? Math.max(0, starts.length - 1) : 0;
  while (least < enough) {
    const turns = Math.floor((least + enough) / 2);
    if ((await count(from(turns))) <= most) enough = turns;
    else least = turns + 1;
  }
  const tokens = await count(from(enough));
  if (tokens >= contextLength) throw tooLong(contextLength, tokens);
  return { items: from(enough), droppedTurns: enough };
}

/** Returns how many tokens of the context the output may take, at most a quarter. */
function roomOf({ max_output_tokens }: ResponseCreateParams, contextLength: number): number {
  return Math.min(max_output_tokens ?? Number.POSITIVE_INFINITY, Math.floor(contextLength / 4));
}

/** Returns an upper bound of the prompt's tokens: a token has at least one byte. */
function mostTokens(items: readonly InputItem[], { instructions }: ResponseCreateParams): number {
  const bytes = (text: string): number => new TextEncoder().encode(text).length + TOKENS_AROUND;
  const said = items.map((item) => bytes("role" in item ? textOf(item.content) : JSON.stringify(item)));
  return said.reduce((sum, length) => sum + length, bytes(instructions ?? ""));
}

function isInstruction(item: InputItem): boolean {
  return "role" in item && (item.role === "system" || item.role === "developer");
}

function tooLong(contextLength: number, tokens: number): Error {
  const message = `This model's maximum context length is ${contextLength} tokens, prompt and output together, and the prompt is too long: it has ${tokens} tokens. Shorten the input.`;
  return apiError(400, { type: "invalid_request_error", code: "context_length_exceeded", message, param: "input" });
}
