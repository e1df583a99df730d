/** Generates one answer with the engine in the browser. */

import type { Wllama } from "@wllama/wllama";
import type { ChatCompletionChunk, ChatCompletionUsage } from "@wllama/wllama/esm/types/oai-compat.js";
import { CaudalError } from "../errors.ts";
import type { InputItem, Logprob, ResponseCreateParams, ResponseObject, Usage } from "../index.ts";
import type { Run } from "../run.ts";
import { EventWriter } from "./event-writer.ts";
import { itemsOf, type LocalRun } from "./journal.ts";
import { type ChatRequest, chatRequest } from "./request.ts";
import { fitted } from "./truncate.ts";
import type { Manifest } from "./weights.ts";

export interface Task {
  wllama: Wllama;
  manifest: Manifest;
  record: LocalRun;
  request: ChatRequest;
  /** The number of turns that were left out of the prompt. */
  droppedTurns: number;
  run: Run;
  cancel: AbortSignal;
  /** Receives all text so far, after each piece. */
  save(text: string): unknown;
  /** Called when the engine is idle again, before the last event. */
  free(): void;
}

/** Generates the answer and passes its events to the run. Resolves to the ended response. */
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
  const writer = new EventWriter(run, { ...record, continues, droppedTurns }, manifest);
  let { text } = record;
  if (text !== "") writer.text(text);
  let finish: string | null | undefined;
  let usage: ChatCompletionUsage | null | undefined;
  let error: unknown;
  try {
    for await (const chunk of await stream(wllama, { ...request, abortSignal: cancel })) {
      usage = chunk.usage ?? usage;
      finish = chunk.choices[0]?.finish_reason ?? finish;
      const piece = writeChunk(writer, chunk);
      if (piece === "") continue;
      text += piece;
      save(text);
    }
  } catch (thrown) {
    error = thrown ?? new Error("The engine in the browser failed without a message.");
  }
  free();
  if (cancel.aborted && error) return writer.end(usageOf(usage), "cancelled");
  if (error) return writer.fail(error instanceof Error ? error.message : String(error));
  return writer.end(usageOf(usage), finish === "length" ? "max_output_tokens" : undefined);
}

/**
 * Matches the engine's error for a prompt that is longer than the context, which it refuses without computing anything.
 */
const TOO_LONG = /\((\d+) tokens\) exceeds/;

/** Builds the engine's request for a run, with as many turns as fit. Throws `LocalUnsupportedError`. */
export async function prepare(
  { wllama, manifest: { model }, info }: Pick<Task, "wllama" | "manifest"> & { info: { contextLength: number } },
  { params, history, text }: LocalRun,
): Promise<Pick<Task, "request" | "droppedTurns">> {
  // This first call only validates, so that errors name the caller's own fields.
  chatRequest(params, history, model, text);
  const requestOf = (items: readonly InputItem[]): ChatRequest =>
    chatRequest({ ...params, input: items }, [], model, text);
  const count = (items: readonly InputItem[]): Promise<number> => promptTokens(wllama, requestOf(items));
  const given = [...history, ...itemsOf(params)];
  const { items, droppedTurns } = await fitted(given, params, info.contextLength, count);
  return { request: requestOf(items), droppedTurns };
}

/** Counts the tokens of a request's prompt. */
export function countTokens(
  { wllama, manifest }: Pick<Task, "wllama" | "manifest">,
  params: ResponseCreateParams,
  history: readonly InputItem[],
): Promise<number> {
  return promptTokens(wllama, chatRequest(params, history, manifest.model, ""));
}

/**
 * Counts the tokens of a prompt. The engine has no call for that, but its refusal of a too long prompt has the prompt's
 * length. So two prompts with a too long filler are refused, the second filler twice as long as the first; the
 * difference is the filler's length.
 */
async function promptTokens(wllama: Wllama, request: ChatRequest): Promise<number> {
  const { n_ctx } = wllama.getLoadedContextInfo();
  const once = await refusedTokens(wllama, request, n_ctx);
  const twice = await refusedTokens(wllama, request, 2 * n_ctx);
  return 2 * once - twice;
}

async function refusedTokens(wllama: Wllama, request: ChatRequest, words: number): Promise<number> {
  const { messages } = request;
  const last = messages.at(-1);
  const isBegun = last?.role === "assistant" && typeof last.content === "string";
  const filler = `a${" a".repeat(words - 1)}`;
  const begin = { role: "assistant" as const, content: isBegun ? `${last.content} ${filler}` : filler };
  const asked = { ...request, messages: [...(isBegun ? messages.slice(0, -1) : messages), begin], max_tokens: 1 };
  try {
    for await (const _ of await stream(wllama, asked)) break;
  } catch (error) {
    const tokens = TOO_LONG.exec(String(error))?.[1];
    if (tokens !== undefined) return Number(tokens);
    throw error;
  }
  throw new CaudalError("The engine in the browser did not report the prompt's length.");
}

function stream(wllama: Wllama, request: ChatRequest): Promise<AsyncIterable<ChatCompletionChunk>> {
  return wllama.createChatCompletion({ ...request, stream: true });
}

/** Passes a chunk to the writer. Returns the chunk's text. */
function writeChunk(writer: EventWriter, { choices }: ChatCompletionChunk): string {
  const choice = choices[0];
  if (!choice) return "";
  const delta = choice.delta as typeof choice.delta & { reasoning_content?: string | null };
  if (delta.reasoning_content) writer.reasoning(delta.reasoning_content);
  for (const { id, function: called } of delta.tool_calls ?? []) writer.call(id, called?.name, called?.arguments ?? "");
  if (delta.content) writer.text(delta.content, (choice.logprobs?.content ?? []) as unknown as Logprob[]);
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
