/** The events of one response. */

import type * as wire from "./wire.ts";

/** The event of one type. Over this package's connections every event has a `response_id`. */
type Of<Type extends wire.ResponseEvent["type"]> = Extract<wire.ResponseEvent, { type: Type }> & {
  response_id: string;
};

export type ResponseLifecycleEvent = Of<"response.created" | "response.queued" | "response.in_progress">;

/** The last event of every response is one of these. */
export type ResponseTerminalEvent = Of<"response.completed" | "response.incomplete" | "response.failed">;

export type OutputItemEvent = Of<"response.output_item.added" | "response.output_item.done">;
export type ContentPartEvent = Of<"response.content_part.added" | "response.content_part.done">;
export type OutputTextDeltaEvent = Of<"response.output_text.delta">;
export type OutputTextDoneEvent = Of<"response.output_text.done">;
export type FunctionCallArgumentsDeltaEvent = Of<"response.function_call_arguments.delta">;
export type FunctionCallArgumentsDoneEvent = Of<"response.function_call_arguments.done">;
export type ReasoningSummaryPartEvent = Of<
  "response.reasoning_summary_part.added" | "response.reasoning_summary_part.done"
>;
export type ReasoningSummaryTextDeltaEvent = Of<"response.reasoning_summary_text.delta">;
export type ReasoningSummaryTextDoneEvent = Of<"response.reasoning_summary_text.done">;

/**
 * The events that this version knows. An event that a newer server adds is passed on unchanged; its `type` is none of
 * these, so give a `switch` a `default`.
 */
export type ResponseEvent = Of<wire.ResponseEvent["type"]>;

/** A request's place in the server's queue. It is not an event of the response, so it is not replayed. */
export interface QueuePosition {
  position: number;
  estimatedWaitMs: number | undefined;
}

export function isTerminal(event: { type?: unknown }): event is ResponseTerminalEvent {
  const { type } = event;
  return type === "response.completed" || type === "response.incomplete" || type === "response.failed";
}
