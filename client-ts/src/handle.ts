import { CancelledError, OutputFormatError, ResponseFailedError } from "./errors.ts";
import type { ResponseEvent } from "./events.ts";
import { FunctionCallStream } from "./function-call.ts";
import type { Link } from "./link.ts";
import { outputText } from "./output-text.ts";
import type { Run } from "./run.ts";
import type { ResponseObject } from "./types.ts";

/**
 * One response. Iterate it for every event, or `text()` for the words, or await `final()`; all as often as wanted, at any
 * time, each from the start. Lost connections are not seen here: the events go on without gap or repeat.
 */
export class ResponseHandle implements AsyncIterable<ResponseEvent> {
  readonly #run: Run;
  readonly #link: Link;

  /** @internal */
  constructor(run: Run, link: Link) {
    this.#run = run;
    this.#link = link;
  }

  /** The response's id, as soon as the server has given one. Rejects when the request fails before that. */
  get id(): Promise<string> {
    return this.#id();
  }

  /** The id if it is known already. */
  get responseId(): string | undefined {
    return this.#run.responseId;
  }

  /** The number of the last event that arrived, -1 before the first: where a later `resume` would go on. */
  get lastSequenceNumber(): number {
    return this.#run.lastSequence;
  }

  [Symbol.asyncIterator](): AsyncGenerator<ResponseEvent, void, undefined> {
    return this.events();
  }

  /** Every event. A response that fails ends with `response.failed`; nothing is thrown for it here. */
  events(): AsyncGenerator<ResponseEvent, void, undefined> {
    return this.#run.log.follow();
  }

  /** The output text as it comes. Throws `ResponseFailedError` if the generation fails on the way. */
  async *text(): AsyncGenerator<string, void, undefined> {
    for await (const event of this.#succeeding()) {
      if (event.type === "response.output_text.delta") yield event.delta;
    }
  }

  /** What the model thinks before it answers, as it comes; a blank line is between two parts. Throws as `text()` does. */
  async *reasoning(): AsyncGenerator<string, void, undefined> {
    let parts = 0;
    for await (const event of this.#succeeding()) {
      if (event.type === "response.reasoning_summary_text.delta") yield event.delta;
      if (event.type === "response.reasoning_summary_part.added" && parts++ > 0) yield "\n\n";
    }
  }

  /** Each function call as the model begins it, with its arguments still to come. Throws as `text()` does. */
  async *functionCalls(): AsyncGenerator<FunctionCallStream, void, undefined> {
    const begun = new Set<number>();
    let place = 0;
    for await (const event of this.#succeeding()) {
      const isItem = event.type === "response.output_item.added" || event.type === "response.output_item.done";
      if (isItem && event.item.type === "function_call" && !begun.has(event.output_index)) {
        begun.add(event.output_index);
        yield new FunctionCallStream(this.#run.log, place, event.output_index, event.item);
      }
      place++;
    }
  }

  /**
   * The output text as the JSON it was asked to be (`text.format`). Rejects with `OutputFormatError` when the response
   * ended before it was complete or its text is no JSON. `check` is given the parsed value and returns it typed, or
   * throws: the `parse` of a schema library fits. Without it the type is only claimed.
   */
  async json<T = unknown>(check?: (value: unknown) => T): Promise<T> {
    const response = await this.final();
    const text = outputText(response);
    if (response.status !== "completed") {
      const why = response.incomplete_details?.reason ?? response.status;
      throw new OutputFormatError("incomplete", `The output is incomplete (${why}), so it is no whole JSON.`, response);
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      const said = text === "" ? "The response has no text." : `The output is no JSON: ${excerpt(text)}`;
      throw new OutputFormatError("invalid", said, response, { cause });
    }
    if (!check) return value as T;
    try {
      return check(value);
    } catch (cause) {
      throw new OutputFormatError("invalid", `The output is JSON of another shape: ${excerpt(text)}`, response, {
        cause,
      });
    }
  }

  /**
   * The response as it ended: `completed`, or `incomplete` (cut off by a limit or cancelled; see `incomplete_details`).
   * Rejects with `ResponseFailedError` when the generation failed.
   */
  async final(): Promise<ResponseObject> {
    await this.#run.log.whenEnded();
    const terminal = this.#run.terminal;
    // The log ended without an error, so its last event was terminal.
    if (!terminal) throw new CancelledError("There is no response.");
    if (terminal.type === "response.failed") throw new ResponseFailedError(terminal.response);
    return terminal.response;
  }

  /**
   * Stops the generation at the server. Resolves when the response has ended, this way or another. Works without a
   * connection too: the cancel is delivered with the next one. Cancelled before the request went out, the handle ends
   * with `CancelledError`.
   */
  async cancel(): Promise<void> {
    if (this.#run.ended) return;
    if (this.#link.cancel(this.#run) === "unsent") {
      this.#run.fail(new CancelledError("Cancelled before the request was sent."));
    }
    await this.#run.log.whenEnded().catch(() => undefined);
  }

  async *#succeeding(): AsyncGenerator<ResponseEvent, void, undefined> {
    for await (const event of this.#run.log.follow()) {
      if (event.type === "response.failed") throw new ResponseFailedError(event.response);
      yield event;
    }
  }

  async #id(): Promise<string> {
    if (this.#run.responseId === undefined) {
      for await (const event of this.#run.log.follow()) return event.response_id;
    }
    return this.#run.responseId ?? "";
  }
}

const EXCERPT = 80;

function excerpt(text: string): string {
  return text.length > EXCERPT ? `${text.slice(0, EXCERPT)}…` : text;
}
