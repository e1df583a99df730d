import type { Carrier } from "./deliveries.ts";
import { CancelledError, ResponseFailedError } from "./errors.ts";
import type { ResponseEvent } from "./events.ts";
import { lazy } from "./lazy.ts";
import { nextFrame } from "./pace.ts";
import type { FunctionCallStream } from "./reading.ts";
import type { Run } from "./run.ts";
import type { Check, StandardSchema } from "./schema.ts";
import type { ResponseObject } from "./types.ts";
import type { Input, RequiredInput } from "./wire.ts";

export interface TextOptions {
  /** "frame": yields at most one piece for each frame that the screen paints. */
  coalesce?: "frame";
}

/** The outcome of `steer`. */
export type SteerResult =
  /** `response` is the successor, which begins with the input. */
  | { status: "committed"; response: ResponseHandle }
  /** The input stays queued until the outputs of these calls are sent with a request that continues the response. */
  | { status: "pending"; requiredInput: readonly RequiredInput[] };

/**
 * The source of the events of runs: a connection, or an engine in the page.
 * @internal
 */
export interface RunSource {
  /** Stops a run. "unsent": the run has not begun, so no event will end it. */
  cancel(run: Run): "sent" | "unsent";
  /** Returns the connection that takes input for the run, if there is one. */
  carrier(run: Run): Carrier | undefined;
}

/**
 * Represents one response. Iterate over the handle for its events, or over `text()` for its text, or await `final()`.
 * Each works at any time and several times, and begins at the response's start. After a lost connection the events go
 * on without gap or repeat.
 */
export class ResponseHandle implements AsyncIterable<ResponseEvent> {
  readonly #run: Run;
  readonly #source: RunSource;

  /** @internal */
  constructor(run: Run, source: RunSource) {
    this.#run = run;
    this.#source = source;
  }

  /** Resolves to the response's id once the server has assigned it. Rejects if the request fails before that. */
  get id(): Promise<string> {
    return this.#id();
  }

  /** The response's id, if it is known already. */
  get responseId(): string | undefined {
    return this.#run.responseId;
  }

  /** The sequence number of the last event, -1 before the first. A later `resume` takes it as `startingAfter`. */
  get lastSequenceNumber(): number {
    return this.#run.lastSequence;
  }

  [Symbol.asyncIterator](): AsyncGenerator<ResponseEvent, void, undefined> {
    return this.events();
  }

  /** Yields every event. A failed response ends with `response.failed`; this method does not throw for it. */
  events(): AsyncGenerator<ResponseEvent, void, undefined> {
    return this.#run.log.follow();
  }

  /**
   * Yields the output text as it comes; each piece has the text since the last one. Text that is replayed after a lost
   * connection comes as one piece. Throws `ResponseFailedError` if the generation fails.
   */
  async *text({ coalesce }: TextOptions = {}): AsyncGenerator<string, void, undefined> {
    for await (const batch of this.#run.log.batches(coalesce && nextFrame)) {
      const text = batch.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join("");
      if (text !== "") yield text;
      const last = batch.at(-1);
      if (last?.type === "response.failed") throw new ResponseFailedError(last.response);
    }
  }

  /** Yields the model's reasoning as it comes, with a blank line between two parts. Throws as `text()` does. */
  async *reasoning(): AsyncGenerator<string, void, undefined> {
    yield* (await reading()).reasoningOf(this.#run.log);
  }

  /** Yields each function call when the model begins it; its arguments are still to come. Throws as `text()` does. */
  async *functionCalls(): AsyncGenerator<FunctionCallStream, void, undefined> {
    yield* (await reading()).callsOf(this.#run.log);
  }

  /**
   * Parses the output text as the JSON that `text.format` asked for. Rejects with `OutputFormatError` if the response
   * is incomplete, its text is not JSON, or `check` refuses the value. `check` is a Standard Schema (zod, valibot,
   * arktype), or a function that returns the typed value or throws. Without a check the type `T` is not verified.
   */
  json<T>(schema: StandardSchema<T>): Promise<T>;
  json<T = unknown>(check?: (value: unknown) => T): Promise<T>;
  async json<T>(check?: Check<T>): Promise<T> {
    const response = await this.final();
    return (await lazy(() => import("./json.ts"))).parsed(response, check);
  }

  /**
   * Resolves to the ended response: `completed`, or `incomplete` (`incomplete_details.reason` tells a limit from a
   * cancel). A cancelled response that ran in the background or came over server-sent events has the status
   * `cancelled`. Rejects with `ResponseFailedError` if the generation failed.
   */
  async final(): Promise<ResponseObject> {
    await this.#run.whenEnded();
    const { terminal } = this.#run;
    // The run ended without an error, so its last event was terminal.
    if (!terminal) throw new CancelledError("There is no response.");
    if (terminal.type === "response.failed") throw new ResponseFailedError(terminal.response);
    return terminal.response;
  }

  /**
   * Stops the generation at the server. Resolves when the response has ended, whatever ended it. Without a connection,
   * the cancel is sent over the next one. If the request has not been sent yet, the handle fails with `CancelledError`.
   */
  async cancel(): Promise<void> {
    if (this.#run.ended) return;
    if (this.#source.cancel(this.#run) === "unsent") {
      this.#run.fail(new CancelledError("Cancelled before the request was sent."));
    }
    await this.#run.whenEnded().catch(() => undefined);
  }

  /**
   * Sends input of the user to the running response: the response ends with reason `steered`, and a successor with the
   * same settings follows at once. Rejects with `SteerError` if the input does not become part of a response. A turn of
   * a conversation and a response of another connection cannot be steered.
   */
  async steer(input: Input): Promise<SteerResult> {
    const { steer } = await lazy(() => import("./steer.ts"));
    const outcome = await steer(this.#source.carrier(this.#run), this.#run, input);
    if (outcome.status === "pending") return outcome;
    return { status: "committed", response: new ResponseHandle(outcome.run, this.#source) };
  }

  async #id(): Promise<string> {
    if (this.#run.responseId === undefined) {
      for await (const event of this.#run.log.follow()) return event.response_id;
    }
    return this.#run.responseId ?? "";
  }
}

const reading = (): Promise<typeof import("./reading.ts")> => lazy(() => import("./reading.ts"));
