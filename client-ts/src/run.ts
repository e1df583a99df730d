/**
 * A run: one response that the client follows. Decides which request to send next and which incoming events are new.
 * Knows no connections.
 */

import { encode, type Message, withField } from "./encode.ts";
import { type ApiError, InputError, isRecord, ProtocolError } from "./errors.ts";
import { EventLog } from "./event-log.ts";
import { isTerminal, type QueuePosition, type ResponseEvent, type ResponseTerminalEvent } from "./events.ts";
import { newId } from "./ids.ts";
import type { ResponseCreateParams } from "./types.ts";

/** The number of tolerated interruptions in a row, without a new event in between. */
const INTERRUPTIONS_TOLERATED = 3;

/** The number of unread events that are buffered. Further events are fetched again from the server's log when they are read. */
const UNREAD_LIMIT = 4_096;

const RESUME = "caudal:response.resume";

/** A response by its id, or the running or latest response of a conversation. */
export type ResumeTarget = string | { conversation: string };

/** The server could not take the request; the client sends the request again at `retryAt` (as `Date.now()` counts). */
export interface Retry {
  error: ApiError;
  /** 1 for the first. */
  attempt: number;
  retryAt: number;
}

/** Callbacks for news that is no event of the response. */
export interface RunNews {
  /** Called when the request's place in the queue changes. */
  onQueued?: (position: QueuePosition) => void;
  /** Called when the server is too busy and the client will send the request again by itself. */
  onRetry?: (retry: Retry) => void;
  /** Called when the replica that ran the response is gone and another replica takes over. */
  onRecovering?: () => void;
}

export class Run {
  readonly log: EventLog<ResponseEvent>;
  readonly news: RunNews;
  /** Fetches the events after this sequence number, which were left out of the log. */
  refill: ((after: number) => void) | undefined;
  terminal: ResponseTerminalEvent | undefined;
  responseId: string | undefined;
  #last: number;
  /** The sequence number after which the caller asked to begin. */
  readonly #from: number;
  /** The last sequence number that existed when the server answered a resume. */
  #replayUntil = -1;
  /** `true`: unread events reached the limit, so the log leaves out the events that follow. */
  #behind = false;
  #interruptions = 0;
  /** Ends when the run ends, which may be before the log is complete. */
  readonly #over = new EventLog<never>();
  /** The encoded message that opens the response while its id is unknown: a create, or a resume of a conversation. */
  readonly #request: string;

  constructor(request: string, news: RunNews = {}, from = -1, log: EventLog<ResponseEvent> = new EventLog()) {
    this.#request = request;
    this.#last = from;
    this.#from = from;
    this.log = log;
    this.news = news;
  }

  /** Makes a run that creates a response. If the request cannot be encoded, the run has failed already. */
  static create(params: ResponseCreateParams, news: RunNews): Run {
    return attempt(() => new Run(encode(params, requestId(params), { type: "response.create" }), news));
  }

  static resume(target: ResumeTarget, startingAfter = -1, news: RunNews = {}): Run {
    return attempt(() => {
      if (!Number.isSafeInteger(startingAfter) || startingAfter < -1) {
        throw noEvent(startingAfter);
      }
      const isId = typeof target === "string";
      const run = new Run(isId ? "{}" : encode(target, { type: RESUME }), news, startingAfter);
      if (isId) run.responseId = target;
      return run;
    });
  }

  /** Makes a run that appends the rest of this run's log. */
  continuation(after: number): Run {
    const rest = new Run("{}", {}, after, this.log);
    rest.responseId = this.responseId;
    return rest;
  }

  get ended(): boolean {
    return this.#over.ended;
  }

  /** The number of the last event in the log, or where the caller asked to begin. */
  get lastSequence(): number {
    return this.log.last?.sequence_number ?? this.#from;
  }

  /** The number of the first event that is missing. */
  get next(): number {
    return this.#last + 1;
  }

  /** Whether the run has not ended and its request can be sent again, as a create or a resume. */
  get canReopen(): boolean {
    return !this.ended && (this.responseId !== undefined || this.#request !== "{}");
  }

  /** The message that makes the server stream this response from the first missing event. */
  opening(streamId: string): string {
    let text = this.responseId === undefined ? this.#request : encode({ type: RESUME, response_id: this.responseId });
    if (this.#last >= 0) text = withField(text, "starting_after", this.#last);
    return withField(text, "stream_id", streamId);
  }

  /**
   * Handles the answer to a resume. Returns "again" if the caller has every event already: the server would send none,
   * so the client must request the last event, which has the outcome.
   */
  resumed(message: Message): "ok" | "again" {
    const { response_id, last_sequence_number: last, replay_until, status } = message;
    if (typeof response_id === "string") this.responseId ??= response_id;
    if (typeof last !== "number" || this.ended) return "ok";
    this.#replayUntil = typeof replay_until === "number" ? replay_until : last;
    if (last >= this.next) return "ok";
    if (last < this.#from) this.fail(noEvent(this.#from));
    const isRunning = status === "in_progress" || status === "queued";
    if (this.ended || isRunning || this.interrupted()) return "ok";
    this.#last = last - 1;
    return "again";
  }

  /** Counts an interruption; too many in a row fail the run. Returns whether the run has ended. */
  interrupted(): boolean {
    if (++this.#interruptions > INTERRUPTIONS_TOLERATED) {
      this.fail(new ProtocolError("The server skips events repeatedly."));
    }
    return this.ended;
  }

  /** Handles an event. Ignores an event that is not the next one. */
  receive(message: Message): void {
    if (this.ended || message["sequence_number"] !== this.next) return;
    if (!isWellFormed(message)) return this.fail(new ProtocolError(`The server sent a malformed ${message["type"]}.`));
    this.#last++;
    this.#interruptions = 0;
    this.responseId = message["response_id"] as string;
    // An event of a newer server may have another type; it is passed on unchanged.
    const event = message as unknown as ResponseEvent;
    if (!this.#behind) this.#append(event);
    if (isTerminal(event)) this.#end(event);
  }

  fail(error: Error): void {
    if (this.ended) return;
    this.log.end(error);
    this.#over.end(error);
  }

  /** Resolves when the response has ended. Rejects when the run failed. */
  whenEnded(): Promise<void> {
    return this.#over.whenEnded();
  }

  #append(event: ResponseEvent): void {
    if (this.log.unread < UNREAD_LIMIT || !this.refill) {
      return this.log.append(event, event.sequence_number < this.#replayUntil);
    }
    this.#behind = true;
    const { lastSequence } = this;
    this.log.starved = () => this.refill?.(lastSequence);
  }

  #end(event: ResponseTerminalEvent): void {
    this.terminal = event;
    if (!this.#behind) this.log.end();
    this.#over.end();
  }
}

/** Returns the request's id, or a new one. The server runs a request once, however often it comes with the same id. */
export function requestId(params: ResponseCreateParams): ResponseCreateParams {
  return { client_request_id: params?.client_request_id ?? newId("req") };
}

function noEvent(startingAfter: number): InputError {
  return new InputError(`\`startingAfter\` is ${startingAfter}: there is no such event.`);
}

function attempt(make: () => Run): Run {
  try {
    return make();
  } catch (error) {
    const run = new Run("{}");
    // A getter of the caller may throw.
    run.fail(error instanceof InputError ? error : new InputError("The request cannot be read.", { cause: error }));
    return run;
  }
}

/** Whether the event has the fields that its readers rely on. */
function isWellFormed(event: Message): boolean {
  const { type, response, item, delta } = event;
  if (typeof type !== "string" || typeof event["response_id"] !== "string") return false;
  if (type.endsWith(".delta")) return typeof delta === "string";
  if (type.startsWith("response.output_item.")) return isRecord(item) && typeof item["type"] === "string";
  return !isTerminal(event) || (isRecord(response) && Array.isArray(response["output"]));
}
