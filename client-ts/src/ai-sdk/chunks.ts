/** Turns the events of a response into the chunks of AI SDK's UI message stream. */

import type { QueuePosition, ResponseEvent } from "../events.ts";
import type { ResponseObject } from "../types.ts";

/** The chunks that the transport writes, with the fields that AI SDK 6 and 7 have in common. */
export type Chunk =
  | { type: "start"; messageId: string; messageMetadata: unknown }
  | { type: "finish"; finishReason: "stop" | "length" | "tool-calls" | "other"; messageMetadata: unknown }
  | { type: "start-step" | "finish-step" | "abort" }
  | { type: "text-start" | "text-end" | "reasoning-start" | "reasoning-end"; id: string }
  | { type: "text-delta" | "reasoning-delta"; id: string; delta: string }
  | { type: "tool-input-start"; toolCallId: string; toolName: string }
  | { type: "tool-input-delta"; toolCallId: string; inputTextDelta: string }
  | { type: "tool-input-available"; toolCallId: string; toolName: string; input: unknown }
  | { type: "tool-input-error"; toolCallId: string; toolName: string; input: unknown; errorText: string }
  | { type: "tool-approval-request"; approvalId: string; toolCallId: string }
  | { type: "tool-output-available"; toolCallId: string; output: unknown }
  | { type: "tool-output-error"; toolCallId: string; errorText: string }
  | { type: "tool-output-denied"; toolCallId: string }
  | { type: "data-queue"; id: string; data: QueuePosition; transient: true };

/** Returns the chunks of one event; none for an event that no message shows. */
export function chunksOf(event: ResponseEvent): Chunk[] {
  switch (event.type) {
    case "response.content_part.added":
      return [{ type: "text-start", id: partId(event.item_id, event.content_index) }];
    case "response.output_text.delta":
      return [{ type: "text-delta", id: partId(event.item_id, event.content_index), delta: event.delta }];
    case "response.content_part.done":
      return [{ type: "text-end", id: partId(event.item_id, event.content_index) }];
    case "response.reasoning_summary_part.added":
      return [{ type: "reasoning-start", id: partId(event.item_id, event.summary_index) }];
    case "response.reasoning_summary_text.delta":
      return [{ type: "reasoning-delta", id: partId(event.item_id, event.summary_index), delta: event.delta }];
    case "response.reasoning_summary_part.done":
      return [{ type: "reasoning-end", id: partId(event.item_id, event.summary_index) }];
  }
  return [];
}

/** Makes the chunks of function calls. A chunk has the call's id, while an event has the item's index. */
export class CallChunks {
  readonly #calls = new Map<number, string>();

  take(event: ResponseEvent): Chunk[] {
    if (event.type === "response.output_item.added" && event.item.type === "function_call") {
      const { call_id: toolCallId, name: toolName } = event.item;
      this.#calls.set(event.output_index, toolCallId);
      return [{ type: "tool-input-start", toolCallId, toolName }];
    }
    if (event.type === "response.function_call_arguments.delta") {
      const toolCallId = this.#calls.get(event.output_index);
      return toolCallId === undefined ? [] : [{ type: "tool-input-delta", toolCallId, inputTextDelta: event.delta }];
    }
    if (event.type === "response.output_item.done" && event.item.type === "function_call") {
      return [callChunk(event.item)];
    }
    return [];
  }
}

/** Makes the chunk of a complete call. */
export function callChunk(call: { call_id: string; name: string; arguments: string }): Chunk {
  const { call_id: toolCallId, name: toolName } = call;
  const input = parsed(call.arguments);
  if (input !== undefined) return { type: "tool-input-available", toolCallId, toolName, input };
  const errorText = "The arguments are not JSON.";
  return { type: "tool-input-error", toolCallId, toolName, input: call.arguments, errorText };
}

/** Parses a JSON text. Returns undefined for any other text. */
export function parsed(json: string): unknown {
  try {
    return JSON.parse(json === "" ? "{}" : json) as unknown;
  } catch {
    return undefined;
  }
}

/** Makes the last chunk of a message. */
export function finishChunk(response: ResponseObject): Chunk {
  const { status, usage } = response;
  const reason = response.incomplete_details?.reason;
  const calls = response.output.some((item) => item.type === "function_call");
  const finishReason = reason === "max_output_tokens" ? "length" : reason ? "other" : calls ? "tool-calls" : "stop";
  return { type: "finish", finishReason, messageMetadata: { responseId: response.id, status, usage } };
}

function partId(item: string, index: number): string {
  return `${item}:${index}`;
}
