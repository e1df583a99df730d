/** What the server says about one response, in the order it says it. */

import type { Logprob, OutputItem, OutputTextPart, SummaryTextPart } from "./items.ts";
import type { ResponseObject } from "./types.ts";

interface Numbered {
  /** Starts at 0 for each response and has no gaps. */
  sequence_number: number;
  response_id: string;
}

interface InPart extends Numbered {
  item_id: string;
  output_index: number;
  content_index: number;
}

interface InItem extends Numbered {
  item_id: string;
  output_index: number;
}

interface InSummary extends InItem {
  summary_index: number;
}

export interface ResponseLifecycleEvent extends Numbered {
  type: "response.created" | "response.queued" | "response.in_progress";
  response: ResponseObject;
}

/** The last event of every response is one of these. */
export interface ResponseTerminalEvent extends Numbered {
  type: "response.completed" | "response.incomplete" | "response.failed";
  response: ResponseObject;
}

export interface OutputItemEvent extends Numbered {
  type: "response.output_item.added" | "response.output_item.done";
  output_index: number;
  item: OutputItem;
}

export interface ContentPartEvent extends InPart {
  type: "response.content_part.added" | "response.content_part.done";
  part: OutputTextPart;
}

export interface OutputTextDeltaEvent extends InPart {
  type: "response.output_text.delta";
  delta: string;
  logprobs: readonly Logprob[];
}

export interface OutputTextDoneEvent extends InPart {
  type: "response.output_text.done";
  text: string;
  logprobs: readonly Logprob[];
}

export interface FunctionCallArgumentsDeltaEvent extends InItem {
  type: "response.function_call_arguments.delta";
  delta: string;
}

export interface FunctionCallArgumentsDoneEvent extends InItem {
  type: "response.function_call_arguments.done";
  arguments: string;
}

export interface ReasoningSummaryPartEvent extends InSummary {
  type: "response.reasoning_summary_part.added" | "response.reasoning_summary_part.done";
  part: SummaryTextPart;
}

export interface ReasoningSummaryTextDeltaEvent extends InSummary {
  type: "response.reasoning_summary_text.delta";
  delta: string;
}

export interface ReasoningSummaryTextDoneEvent extends InSummary {
  type: "response.reasoning_summary_text.done";
  text: string;
}

/**
 * Everything that this version knows. An event that a newer server adds is passed on as it came: its `type` is none of
 * these, so a `switch` with a `default` is ready for it.
 */
export type ResponseEvent =
  | ResponseLifecycleEvent
  | ResponseTerminalEvent
  | OutputItemEvent
  | ContentPartEvent
  | OutputTextDeltaEvent
  | OutputTextDoneEvent
  | FunctionCallArgumentsDeltaEvent
  | FunctionCallArgumentsDoneEvent
  | ReasoningSummaryPartEvent
  | ReasoningSummaryTextDeltaEvent
  | ReasoningSummaryTextDoneEvent;

/** Where a request stands in the server's queue. News, not part of the response: it is not replayed. */
export interface QueuePosition {
  position: number;
  estimatedWaitMs: number | undefined;
}

export function isTerminal(event: ResponseEvent): event is ResponseTerminalEvent {
  return isTerminalType(event.type);
}

export function isTerminalType(type: unknown): type is ResponseTerminalEvent["type"] {
  return type === "response.completed" || type === "response.incomplete" || type === "response.failed";
}
