/** Reads the reasoning and the function calls of a response. Loaded when used. */

import { CaudalError, ResponseFailedError } from "./errors.ts";
import type { EventLog } from "./event-log.ts";
import type { ResponseEvent } from "./events.ts";
import type { FunctionCall } from "./items.ts";

/** Yields the reasoning of a response, with a blank line between two parts. Throws if the generation fails. */
export async function* reasoningOf(log: EventLog<ResponseEvent>): AsyncGenerator<string, void, undefined> {
  let parts = 0;
  for await (const event of succeeding(log)) {
    if (event.type === "response.reasoning_summary_text.delta") yield event.delta;
    if (event.type === "response.reasoning_summary_part.added" && parts++ > 0) yield "\n\n";
  }
}

/** Yields each function call of a response when the model begins it. Throws if the generation fails. */
export async function* callsOf(log: EventLog<ResponseEvent>): AsyncGenerator<FunctionCallStream, void, undefined> {
  const begun = new Set<number>();
  let place = 0;
  for await (const event of succeeding(log)) {
    const isItem = event.type === "response.output_item.added" || event.type === "response.output_item.done";
    if (isItem && event.item.type === "function_call" && !begun.has(event.output_index)) {
      begun.add(event.output_index);
      yield new FunctionCallStream(log, place, event.output_index, event.item);
    }
    place++;
  }
}

/** One function call of a response, from the moment the model begins to write it. */
export class FunctionCallStream {
  readonly callId: string;
  readonly name: string;
  readonly outputIndex: number;
  readonly #log: EventLog<ResponseEvent>;
  readonly #from: number;

  /** @internal `from` is the place in the log of the event that announced the call. */
  constructor(log: EventLog<ResponseEvent>, from: number, outputIndex: number, call: FunctionCall) {
    this.#log = log;
    this.#from = from;
    this.outputIndex = outputIndex;
    this.callId = call.call_id;
    this.name = call.name;
  }

  /** Yields the arguments as the model writes them: pieces of one JSON text. */
  async *arguments(): AsyncGenerator<string, void, undefined> {
    let streamed = false;
    for await (const event of this.#events()) {
      if (event.type === "response.function_call_arguments.delta") {
        streamed = true;
        yield event.delta;
      }
      // A handle that resumed after the deltas receives the arguments whole.
      if (event.type === "response.output_item.done" && event.item.type === "function_call") {
        if (!streamed && event.item.arguments !== "") yield event.item.arguments;
        return;
      }
    }
  }

  /** Resolves to the complete call. Its `arguments` are unchecked text of the model: parse and check them. */
  async final(): Promise<FunctionCall> {
    for await (const event of this.#events()) {
      if (event.type === "response.output_item.done" && event.item.type === "function_call") return event.item;
    }
    throw new CaudalError("The response ended before this call was complete.");
  }

  async *#events(): AsyncGenerator<ResponseEvent, void, undefined> {
    for await (const event of succeeding(this.#log, this.#from)) {
      if ("output_index" in event && event.output_index === this.outputIndex) yield event;
    }
  }
}

async function* succeeding(log: EventLog<ResponseEvent>, from = 0): AsyncGenerator<ResponseEvent, void, undefined> {
  for await (const event of log.follow(from)) {
    if (event.type === "response.failed") throw new ResponseFailedError(event.response);
    yield event;
  }
}
