/**
 * One response being followed, over as many connections as that takes. Decides what to send next and which of the
 * incoming events are new; knows no sockets.
 */

import type { Message } from "./connection.ts";
import { type ApiError, ProtocolError } from "./errors.ts";
import { EventLog } from "./event-log.ts";
import { isTerminal, type QueuePosition, type ResponseEvent, type ResponseTerminalEvent } from "./events.ts";

/** Gaps in a row, without an event in between, that a broken server is allowed. */
const GAPS_TOLERATED = 3;

const RESUME = "caudal:response.resume";

/** A response by its id, or whatever is said in a conversation. */
export type ResumeTarget = string | { conversation: string };

/** The server could not take the request just now; it is asked again at `retryAt` (as `Date.now()` counts). */
export interface Retry {
  error: ApiError;
  /** 1 for the first. */
  attempt: number;
  retryAt: number;
}

/** What the caller is told while the request waits. */
export interface RunNews {
  /** Told where the request stands while it waits for a free slot. */
  onQueued?: (position: QueuePosition) => void;
  /** Told when the server is too busy and the request will be sent again by itself. */
  onRetry?: (retry: Retry) => void;
}

export class Run {
  readonly log: EventLog<ResponseEvent> = new EventLog<ResponseEvent>();
  readonly news: RunNews;
  terminal: ResponseTerminalEvent | undefined;
  responseId: string | undefined;
  cancelRequested = false;
  /** The create may have reached the server. */
  sent = false;
  /** Since when it has waited for a connection. */
  waitingSince: number = Date.now();
  /** Answers that said "try again" in a row, and when to do so. */
  refusals = 0;
  notBefore = 0;
  /** It cannot be had from another connection while the one that carries it lasts. */
  stays = false;
  #lastSequence: number;
  #gaps = 0;
  /** What makes the server name the response, where it is not named yet. */
  readonly #request: Message;

  private constructor(request: Message, lastSequence: number, { onQueued, onRetry }: RunNews) {
    this.#request = request;
    this.#lastSequence = lastSequence;
    this.news = { ...(onQueued && { onQueued }), ...(onRetry && { onRetry }) };
  }

  static create(create: Message, news: RunNews): Run {
    return new Run({ ...create, type: "response.create" }, -1, news);
  }

  static resume(target: ResumeTarget, startingAfter: number | undefined, news: RunNews): Run {
    const inConversation = typeof target === "object";
    const request = inConversation ? { type: RESUME, conversation: target.conversation } : {};
    const run = new Run(request, startingAfter ?? -1, news);
    if (!inConversation) run.responseId = target;
    return run;
  }

  get ended(): boolean {
    return this.log.ended;
  }

  get lastSequence(): number {
    return this.#lastSequence;
  }

  /** The message that makes the server stream this response, from the first event that is missing here. */
  opening(streamId: string): Message {
    const after = this.#lastSequence < 0 ? {} : { starting_after: this.#lastSequence };
    if (this.responseId === undefined) {
      this.sent = true;
      return { ...this.#request, ...after, stream_id: streamId };
    }
    return { type: RESUME, response_id: this.responseId, ...after, stream_id: streamId };
  }

  /**
   * Takes the answer to a resume. "again" when the caller had every event already: none would come, and the last one, which
   * says how it ended, is to be asked for.
   */
  resumed({ response_id, last_sequence_number, status }: Message): "ok" | "again" {
    if (typeof response_id === "string") this.responseId ??= response_id;
    const hasEnded = status === "completed" || status === "incomplete" || status === "failed";
    if (
      this.ended ||
      !hasEnded ||
      typeof last_sequence_number !== "number" ||
      last_sequence_number > this.#lastSequence
    )
      return "ok";
    this.#lastSequence = last_sequence_number - 1;
    return "again";
  }

  /** Takes the next event, drops a repeated one, and says "gap" when one is missing before it. */
  receive(message: Message): "ok" | "gap" {
    const sequence = message["sequence_number"];
    if (typeof sequence !== "number") return "ok";
    const responseId = message["response_id"];
    if (this.responseId !== undefined && responseId !== undefined && responseId !== this.responseId) return "ok";
    if (sequence <= this.#lastSequence) return "ok";
    if (sequence > this.#lastSequence + 1) {
      if (++this.#gaps > GAPS_TOLERATED) this.fail(new ProtocolError("The server keeps leaving out events."));
      return "gap";
    }
    this.#gaps = 0;
    this.refusals = 0;
    this.#lastSequence = sequence;
    if (typeof responseId === "string") this.responseId = responseId;
    // The wire's event, as the protocol types it; what is unknown to this version is passed on as it is.
    const event = message as unknown as ResponseEvent;
    this.log.append(event);
    if (isTerminal(event)) {
      this.terminal = event;
      this.log.end();
    }
    return "ok";
  }

  fail(error: Error): void {
    this.log.end(error);
  }
}
