/**
 * Translates a request of the Responses API for the engine in the browser. Refuses fields that the engine does not
 * support.
 */

import type { ChatCompletionMessage, ChatCompletionParams } from "@wllama/wllama/esm/types/oai-compat.js";
import type { InputItem, ResponseCreateParams } from "../index.ts";
import type { Model } from "../types.ts";
import type { Text } from "../wire.ts";
import { LocalUnsupportedError } from "./errors.ts";
import { itemsOf } from "./journal.ts";

/** Unsupported fields that would change the answer. */
const UNSUPPORTED = ["prompt", "previous_response_id", "reasoning", "max_tool_calls"] as const;

/** The engine's request, with fields that its package does not type. */
export type ChatRequest = Pick<ChatCompletionParams, "messages"> & Record<string, unknown>;

/** Returns the sampling settings of a request, with the model's defaults. */
export function samplingOf(params: ResponseCreateParams, { sampling }: Model): Record<string, number> {
  return {
    temperature: params.temperature ?? sampling.temperature ?? 1,
    top_p: params.top_p ?? sampling.top_p ?? 1,
    top_k: params.top_k ?? sampling.top_k ?? 0,
    min_p: params.min_p ?? sampling.min_p ?? 0,
    repeat_penalty: params.repetition_penalty ?? sampling.repetition_penalty ?? 1,
    presence_penalty: params.presence_penalty ?? 0,
    frequency_penalty: params.frequency_penalty ?? 0,
  };
}

/** Builds the engine's request. `said` is text with which the answer begins. Throws `LocalUnsupportedError`. */
export function chatRequest(
  params: ResponseCreateParams,
  history: readonly InputItem[],
  model: Model,
  said: string,
): ChatRequest {
  for (const field of UNSUPPORTED) if (params[field] != null) throw new LocalUnsupportedError(field);
  if (params.generate === false) throw new LocalUnsupportedError("generate");
  const messages = messagesOf(params, history);
  if (messages.every(({ role }) => role === "system"))
    throw new LocalUnsupportedError("input", "it has no message or call");
  if (said !== "") messages.push({ role: "assistant", content: said });
  const logprobs = params.top_logprobs ?? (params.include?.includes("message.output_text.logprobs") ? 0 : undefined);
  return {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...samplingOf(params, model),
    ...(params.seed != null && { seed: Number(BigInt.asUintN(32, BigInt(params.seed))) }),
    ...(params.stop != null && { stop: typeof params.stop === "string" ? [params.stop] : [...params.stop] }),
    ...(params.max_output_tokens != null && { max_tokens: params.max_output_tokens }),
    ...(params.logit_bias != null && { logit_bias: params.logit_bias }),
    ...(logprobs !== undefined && { logprobs: true, top_logprobs: logprobs }),
    ...formatOf(params),
    ...toolsOf(params, model),
  };
}

function messagesOf(params: ResponseCreateParams, history: readonly InputItem[]): ChatCompletionMessage[] {
  const { instructions } = params;
  const messages: ChatCompletionMessage[] = instructions ? [{ role: "system", content: instructions }] : [];
  [...history, ...itemsOf(params)].forEach((item, at) => {
    if ("role" in item) {
      const content = textOf(item.content);
      const role = item.role === "developer" ? "system" : item.role;
      messages.push({ role, content });
    } else if (item.type === "function_call") {
      const call = { name: item.name, arguments: item.arguments };
      messages.push({ role: "assistant", tool_calls: [{ id: item.call_id, type: "function", function: call }] });
    } else if (item.type === "function_call_output") {
      messages.push({ role: "tool", tool_call_id: item.call_id, content: textOf(item.output) });
    } else if (item.type !== "reasoning") {
      throw new LocalUnsupportedError(`input[${at - history.length}]`, `it is of the type ${item.type}`);
    }
  });
  return messages;
}

export function textOf(text: Text | null | undefined): string {
  if (typeof text === "string") return text;
  return (text ?? []).map((part) => ("text" in part ? (part.text ?? "") : "")).join("");
}

function formatOf({ text }: ResponseCreateParams): object {
  const format = text?.format;
  switch (format?.type) {
    case undefined:
    case "text":
      return {};
    case "json_object":
      return { response_format: { type: "json_object" } };
    case "json_schema": {
      const { name, schema } = format;
      return { response_format: { type: "json_schema", json_schema: { name, schema, strict: true } } };
    }
    default:
      throw new LocalUnsupportedError("text.format.type");
  }
}

function toolsOf({ tools, tool_choice, parallel_tool_calls }: ResponseCreateParams, { capabilities }: Model): object {
  if (!tools?.length) return {};
  if (capabilities.tools !== "template") throw new LocalUnsupportedError("tools", "the model's template has no tools");
  if (tool_choice != null && typeof tool_choice !== "string") throw new LocalUnsupportedError("tool_choice");
  const functions = tools.map((tool, at) => {
    if (tool.type !== "function") throw new LocalUnsupportedError(`tools[${at}]`);
    const { name, description, parameters } = tool;
    return { type: "function", function: { name, description: description ?? "", parameters: parameters ?? {} } };
  });
  return { tools: functions, tool_choice: tool_choice ?? "auto", parallel_tool_calls: parallel_tool_calls ?? true };
}
