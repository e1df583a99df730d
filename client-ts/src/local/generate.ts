/** One answer of the engine in the browser. */

import type { Wllama } from "@wllama/wllama";
import type { ChatCompletionChunk, ChatCompletionUsage } from "@wllama/wllama/esm/types/oai-compat.js";
import { CaudalError } from "../errors.ts";
import type { Logprob, ResponseObject, Usage } from "../index.ts";
import type { Run } from "../run.ts";
import type { LocalRun } from "./journal.ts";
import { type ChatRequest, chatRequest } from "./request.ts";

import { Speaker } from "./speaker.ts";
import { fitted } from "./truncate.ts";
import type { Manifest } from "./weights.ts";

export { chatRequest, fitted };

export interface Task {
  wllama: Wllama;
  manifest: Manifest;
  record: LocalRun;
  request: ChatRequest;
  /** Turns that were left out of the prompt. */
  droppedTurns: number;
  run: Run;
  cancel: AbortSignal;
  /** Receives all text so far, at each piece of it. */
  save(text: string): unknown;
  /** Runs when the engine is free again, before the last event. */
  free(): void;
}

/** Brings the answer's events to the run. Resolves to the response as it ended. */
export async function answer({
  wllama,
  manifest,
  record,
  request,
  droppedTurns,
  run,
  cancel,
  save,
  free,
}: Task): Promise<ResponseObject> {
  const continues = record.continues ? record.replaces : undefined;
  const speaker = new Speaker(run, { ...record, continues, droppedTurns }, manifest);
  let { text } = record;
  if (text !== "") speaker.text(text);
  let finish: string | null | undefined;
  let usage: ChatCompletionUsage | null | undefined;
  let error: unknown;
  try {
    for await (const chunk of await stream(wllama, { ...request, abortSignal: cancel })) {
      usage = chunk.usage ?? usage;
      finish = chunk.choices[0]?.finish_reason ?? finish;
      const said = speak(speaker, chunk);
      if (said === "") continue;
      text += said;
      save(text);
    }
  } catch (thrown) {
    error = thrown ?? new Error("The engine broke.");
  }
  free();
  if (cancel.aborted && error) return speaker.end(usageOf(usage), "cancelled");
  if (error) return speaker.fail(error instanceof Error ? error.message : String(error));
  return speaker.end(usageOf(usage), finish === "length" ? "max_output_tokens" : undefined);
}

/** How the engine refuses a prompt that is longer than its context. */
const TOO_LONG = /\((\d+) tokens\) exceeds/;

/** Counts the tokens of the prompt. The engine reports the count before it computes them. */
export async function promptTokens(wllama: Wllama, request: ChatRequest): Promise<number> {
  const counted = new AbortController();
  const asked = { ...request, max_tokens: 1, return_progress: true, abortSignal: counted.signal };
  let total: number | undefined;
  try {
    for await (const { prompt_progress } of await stream(wllama, asked)) {
      total ??= prompt_progress?.total;
      // The end of the loop then brings the error of the abort, which nobody else would catch.
      if (total !== undefined) counted.abort();
    }
  } catch (error) {
    if (total === undefined) total = Number(TOO_LONG.exec(String(error))?.[1] ?? Number.NaN);
    if (Number.isNaN(total)) throw error;
  }
  if (total !== undefined) return total;
  throw new CaudalError("The engine in the browser did not count.");
}

function stream(wllama: Wllama, request: ChatRequest): Promise<AsyncIterable<ChatCompletionChunk>> {
  return wllama.createChatCompletion({ ...request, stream: true });
}

/** The text that came. */
function speak(speaker: Speaker, { choices }: ChatCompletionChunk): string {
  const choice = choices[0];
  if (!choice) return "";
  const delta = choice.delta as typeof choice.delta & { reasoning_content?: string | null };
  if (delta.reasoning_content) speaker.thought(delta.reasoning_content);
  for (const { id, function: called } of delta.tool_calls ?? [])
    speaker.call(id, called?.name, called?.arguments ?? "");
  if (delta.content) speaker.text(delta.content, (choice.logprobs?.content ?? []) as unknown as Logprob[]);
  return delta.content ?? "";
}

function usageOf(usage: ChatCompletionUsage | null | undefined): Usage | null {
  if (!usage) return null;
  return {
    input_tokens: usage.prompt_tokens,
    input_tokens_details: { cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0 },
    output_tokens: usage.completion_tokens,
    output_tokens_details: { reasoning_tokens: usage.completion_tokens_details?.reasoning_tokens ?? 0 },
    total_tokens: usage.total_tokens,
  };
}
