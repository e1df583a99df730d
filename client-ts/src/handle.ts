import { CancelledError, ResponseFailedError } from "./errors.ts";
import type { ResponseEvent } from "./events.ts";
import type { Link } from "./link.ts";
import type { Run } from "./run.ts";
import type { ResponseObject } from "./types.ts";

/**
 * One response. Iterate it for every event, or `text()` for the words, or await `final()`; all three as often as wanted,
 * at any time, each from the start. Lost connections are not seen here: the events go on without gap or repeat.
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
    return this.#run.log.follow();
  }

  /** The output text as it comes. Throws `ResponseFailedError` if the generation fails on the way. */
  async *text(): AsyncGenerator<string, void, undefined> {
    for await (const event of this.#run.log.follow()) {
      if (event.type === "response.output_text.delta") yield event.delta;
      if (event.type === "response.failed") throw new ResponseFailedError(event.response);
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

  async #id(): Promise<string> {
    if (this.#run.responseId === undefined) {
      for await (const event of this.#run.log.follow()) return event.response_id;
    }
    return this.#run.responseId ?? "";
  }
}
