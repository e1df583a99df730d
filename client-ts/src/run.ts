/**
 * One response being followed, over as many connections as that takes. Decides what to send next and which of the
 * incoming events are new; knows no sockets.
 */

import type { Message } from "./connection.ts";
import { ProtocolError } from "./errors.ts";
import { EventLog } from "./event-log.ts";
import { isTerminal, type ResponseEvent, type ResponseTerminalEvent } from "./events.ts";
import type { FollowOptions } from "./responses.ts";

/** Gaps in a row, without an event in between, that a broken server is allowed. */
const GAPS_TOLERATED = 3;

export type RunNews = Pick<FollowOptions, "onQueued" | "onRetry">;

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
  readonly #create: Message | undefined;

  private constructor(
    create: Message | undefined,
    responseId: string | undefined,
    lastSequence: number,
    { onQueued, onRetry }: RunNews,
  ) {
    this.#create = create;
    this.responseId = responseId;
    this.#lastSequence = lastSequence;
    this.news = { ...(onQueued && { onQueued }), ...(onRetry && { onRetry }) };
  }

  static create(create: Message, news: RunNews): Run {
    return new Run(create, undefined, -1, news);
  }

  static resume(responseId: string, startingAfter: number | undefined, news: RunNews): Run {
    return new Run(undefined, responseId, startingAfter ?? -1, news);
  }

  get ended(): boolean {
    return this.log.ended;
  }

  get lastSequence(): number {
    return this.#lastSequence;
  }

  /** The message that makes the server stream this response, from the first event that is missing here. */
  opening(streamId: string): Message {
    if (this.responseId === undefined) {
      this.sent = true;
      return { ...this.#create, type: "response.create", stream_id: streamId };
    }
    const after = this.#lastSequence < 0 ? {} : { starting_after: this.#lastSequence };
    return { type: "caudal:response.resume", response_id: this.responseId, ...after, stream_id: streamId };
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
