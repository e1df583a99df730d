/** An answer for display: the parts of a response, built from its events. */

import type { ResponseEvent } from "../events.ts";
import type { InputItem } from "../items.ts";
import type { ResponseObject } from "../types.ts";
import type { ConversationItem, OutputItem } from "../wire.ts";

export interface TextPart {
  readonly type: "text";
  readonly text: string;
}

/** The model's reasoning. */
export interface ReasoningPart {
  readonly type: "reasoning";
  readonly text: string;
}

/** A function that the model called. */
export interface CallPart {
  readonly type: "call";
  readonly callId: string;
  readonly name: string;
  /** JSON text; complete once `isComplete` is true. */
  readonly arguments: string;
  readonly isComplete: boolean;
  /** The result that was sent for the call. */
  readonly output?: string;
}

export type AnswerPart = TextPart | ReasoningPart | CallPart;

/** Builds the parts of one response from its events, which `take` receives in order. */
export class Answer {
  readonly #before: readonly AnswerPart[];
  readonly #parts = new Map<number, AnswerPart>();
  /** "queued" until the model begins, "thinking" until the first text or call. */
  status: "queued" | "thinking" | "streaming" = "queued";

  /** `before` are parts of earlier responses of the same turn. */
  constructor(before: readonly AnswerPart[] = []) {
    this.#before = before;
  }

  get parts(): readonly AnswerPart[] {
    return [...this.#before, ...this.#parts.values()];
  }

  take(event: ResponseEvent): void {
    switch (event.type) {
      case "response.in_progress":
        this.status = "thinking";
        return;
      case "response.output_item.added":
      case "response.output_item.done": {
        const part = partOf(event.item, event.type === "response.output_item.done");
        if (part?.type === "call") this.status = "streaming";
        if (part) this.#parts.set(event.output_index, part);
        return;
      }
      case "response.output_text.delta":
        this.status = "streaming";
        return this.#append(event.output_index, { type: "text", text: event.delta });
      case "response.reasoning_summary_text.delta":
        return this.#append(event.output_index, { type: "reasoning", text: event.delta });
      case "response.reasoning_summary_part.added":
        if (event.summary_index > 0) this.#append(event.output_index, { type: "reasoning", text: "\n\n" });
        return;
      case "response.function_call_arguments.delta": {
        const call = this.#parts.get(event.output_index);
        if (call?.type !== "call") return;
        this.#parts.set(event.output_index, { ...call, arguments: call.arguments + event.delta });
      }
    }
  }

  #append(index: number, part: TextPart | ReasoningPart): void {
    const before = this.#parts.get(index);
    const text = before && "text" in before ? before.text + part.text : part.text;
    this.#parts.set(index, { ...part, text });
  }
}

/** Returns the part that displays an item, or undefined for an item that is not displayed. */
export function partOf(item: OutputItem | ConversationItem, isComplete = true): AnswerPart | undefined {
  switch (item.type) {
    case "message":
      return { type: "text", text: item.content.map((part) => part.text).join("") };
    case "reasoning":
      return { type: "reasoning", text: item.summary.map(({ text }) => text).join("\n\n") };
    case "function_call":
      return { type: "call", callId: item.call_id, name: item.name, arguments: item.arguments, isComplete };
  }
  return undefined;
}

export function partsOf(response: ResponseObject): AnswerPart[] {
  return response.output.flatMap((item) => partOf(item) ?? []);
}

/** Returns the parts with the calls' results that `items` holds. */
export function withOutputs(parts: readonly AnswerPart[], items: readonly InputItem[]): readonly AnswerPart[] {
  const outputs = new Map<string, string>();
  for (const item of items) {
    if (!("type" in item) || item.type !== "function_call_output" || !("output" in item)) continue;
    outputs.set(item.call_id, typeof item.output === "string" ? item.output : JSON.stringify(item.output));
  }
  return parts.map((part) => {
    const output = part.type === "call" ? outputs.get(part.callId) : undefined;
    return output === undefined ? part : { ...part, output };
  });
}

/** Joins the text of all text parts. */
export function textOf(parts: readonly AnswerPart[]): string {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}
