/**
 * Assigns runs to connections and lanes, and queues those that wait. While a server drains, two connections may carry the same
 * run. This module never opens a connection.
 */

import { backoffDelay, type ReconnectOptions } from "./backoff.ts";
import type { Connection, Ending } from "./connection.ts";
import { encode, isLongerThan, type Message } from "./encode.ts";
import { type ApiError, apiError, ConnectionError, numberOr } from "./errors.ts";
import { isTerminalType } from "./events.ts";
import { Run } from "./run.ts";
import { tell } from "./tell.ts";

export interface DeliveryOptions {
  reconnect: Required<ReconnectOptions>;
  maxRetries: number;
  /** Runs that may wait for a connection. */
  maxWaiting: number;
}

/** Inputs to one running response that have no outcome yet. */
export interface PendingSteers {
  readonly settled: boolean;
  /** Takes a `response.steer.` event. */
  receive(message: Message): void;
  /** The successor has begun: the inputs are part of it. */
  commit(successor: Run): void;
  lost(): void;
}

/** What it takes to get one run to the server, and how far that has come. */
export class Delivery {
  readonly run: Run;
  steers: PendingSteers | undefined;
  cancelRequested = false;
  /** The create may have reached the server. */
  sent = false;
  /** Since when it has waited for a connection. */
  waitingSince: number = Date.now();
  /** Answers that said "try again" in a row, and when to do so. */
  refusals = 0;
  notBefore = 0;
  /** No other connection can have the run while the one that carries it lasts. */
  stays = false;
  /** An error that names no lane may have been about it: nothing else is sent while it is unanswered. */
  suspect = false;

  constructor(run: Run) {
    this.run = run;
  }
}

/** Where input to a running response goes. */
export interface Carrier {
  readonly delivery: Delivery;
  readonly streamId: string;
  send(text: string): void;
}

/** A run on a connection. */
interface Lane {
  readonly connection: Connection;
  readonly streamId: string;
  readonly delivery: Delivery;
  /** The number of the next event that this lane brings. */
  next: number;
  answered: boolean;
  readonly deadline: ReturnType<typeof setTimeout> | undefined;
}

/** The longest time that a timer can be set to. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Deliveries {
  readonly #options: DeliveryOptions;
  readonly #lanes = new Map<Connection, Map<string, Lane>>();
  /** Called when a lane has become free or a delivery waits. */
  readonly #changed: () => void;
  #waiting: Delivery[] = [];

  constructor(options: DeliveryOptions, changed: () => void) {
    this.#options = options;
    this.#changed = changed;
  }

  open(connection: Connection): void {
    this.#lanes.set(connection, new Map());
  }

  connections(): readonly Connection[] {
    return [...this.#lanes.keys()];
  }

  /** False when too many wait already. */
  add(run: Run): boolean {
    this.#prune();
    if (this.#waiting.length >= this.#options.maxWaiting) return false;
    this.#waiting.push(new Delivery(run));
    return true;
  }

  /** Whether something waits for `current`, or would move to it. */
  needs(current: Connection | undefined): boolean {
    this.#prune();
    return this.#waiting.length > 0 || this.#toMove(current) !== undefined;
  }

  /** How many runs follow this response. */
  runsOf(responseId: string): number {
    const runs = new Set([...this.#all().map((lane) => lane.delivery.run), ...this.#waiting.map(({ run }) => run)]);
    return [...runs].filter((run) => run.responseId === responseId && !run.ended).length;
  }

  /** Whether a connection carries a run that has not ended. */
  carries(connection: Connection): boolean {
    return connection.ready && this.#of(connection).some((lane) => !lane.delivery.run.ended);
  }

  /** Gives the connection all it can carry. Returns when the first of those that wait is due, if one does. */
  assign(current: Connection): number | undefined {
    for (;;) {
      const unanswered = this.#unanswered(current);
      const streamId = unanswered.some((lane) => lane.delivery.suspect) ? undefined : this.#vacant(current);
      const delivery = streamId && (this.#takeWaiting(unanswered.length > 0) ?? this.#toMove(current));
      if (!delivery) break;
      this.#send(current, streamId, delivery);
    }
    return this.#waiting.length === 0 ? undefined : Math.min(...this.#waiting.map(({ notBefore }) => notBefore));
  }

  /** "unsent" when the server cannot know of the run: then it just leaves the queue. */
  cancel(run: Run): "sent" | "unsent" {
    const waiting = this.#waiting.find((delivery) => delivery.run === run);
    const lanes = this.#all().filter((lane) => lane.delivery.run === run);
    const delivery = waiting ?? lanes[0]?.delivery;
    if (!delivery || (!delivery.sent && run.responseId === undefined)) return "unsent";
    delivery.cancelRequested = true;
    for (const lane of lanes) this.#sendCancel(lane);
    return "sent";
  }

  /** How to give input to a response that `current` carries. */
  carrier(run: Run, current: Connection): Carrier | undefined {
    const lane = this.#of(current).find((each) => each.delivery.run === run && each.answered);
    return lane && { ...lane, send: (text) => current.send(text) };
  }

  /** Takes a message that names a lane. `isCurrent` is false on a connection that drains. */
  receive(connection: Connection, message: Message, isCurrent: boolean): void {
    const lane = this.#lane(connection, message["stream_id"]);
    if (!lane) return;
    const { type } = message;
    if (type === "error") return this.#refused(lane, message, isCurrent);
    const { delivery } = lane;
    const { run } = delivery;
    if (typeof type !== "string") return;
    if (type.startsWith("response.steer.")) return this.#steered(lane, message);
    if (isCurrent) this.#takenOver(lane);
    const knew = run.responseId !== undefined;
    if (type === "caudal:response.queued") {
      const { position, estimated_wait_ms: wait } = message;
      tell(run.news.onQueued, { position: numberOr(position, 0), estimatedWaitMs: numberOr(wait, undefined) });
    }
    if (type === "caudal:response.recovering") tell(run.news.onRecovering, undefined);
    if (type === "caudal:response.resumed" && run.resumed(message) === "again") this.#open(lane);
    if (!type.startsWith("caudal:") && !this.#event(lane, message)) return;
    if (run.responseId !== undefined) this.#answered(lane);
    if (run.ended && isTerminalType(type)) return this.#finished(lane);
    if (knew || run.responseId === undefined) return;
    delivery.steers?.commit(run);
    if (delivery.cancelRequested) this.#sendCancel(lane);
    // A draining server has named the response, so another server can have it.
    if (!isCurrent) this.#changed();
  }

  /** Takes an error without a lane: about one of the requests that wait for an answer. */
  receiveError(connection: Connection, message: Message, isCurrent: boolean): void {
    const unanswered = this.#unanswered(connection);
    const [first] = unanswered;
    if (first && unanswered.length === 1) return this.#refused(first, message, isCurrent);
    for (const lane of unanswered) lane.delivery.suspect = true;
    if (first) connection.abandon("an error names no lane");
  }

  /** The connection drains: what it was given a moment ago, and an older connection still carries, leaves it. */
  draining(connection: Connection): void {
    for (const lane of this.#of(connection)) {
      if (this.#lanesOf(lane.delivery).length > 1) this.#free(lane, false);
    }
    this.#closeIfIdle(connection);
  }

  /** The connection is gone. Returns whether anything waits for another because of that. */
  lost(connection: Connection, ending: Ending): boolean {
    const lanes = this.#of(connection);
    this.#lanes.delete(connection);
    for (const lane of lanes) {
      const { delivery } = lane;
      clearTimeout(lane.deadline);
      delivery.stays = false;
      delivery.steers?.lost();
      if (ending.verdict === "too_large" && delivery.run.responseId === undefined) delivery.run.fail(tooLarge());
      else if (!delivery.run.canReopen) delivery.run.fail(new ConnectionError("The connection was lost."));
    }
    const lost = lanes
      .map(({ delivery }) => delivery)
      .filter((delivery) => !delivery.run.ended && this.#lanesOf(delivery).length === 0);
    this.#waiting = [...lost, ...this.#waiting];
    // Time spent waiting for a lane is no time without a connection.
    for (const delivery of ending.wasReady ? this.#waiting : lost) delivery.waitingSince = Date.now();
    return lost.length > 0;
  }

  /** Ends those that have waited for a connection for too long. */
  giveUp(): void {
    for (const { run, waitingSince } of this.#waiting) {
      if (Date.now() - waitingSince < this.#options.reconnect.giveUpAfterMs) continue;
      run.fail(new ConnectionError("The network connection to the server was lost and could not be had again."));
    }
  }

  failWaiting(error: Error): void {
    for (const { run } of this.#waiting.splice(0)) run.fail(error);
  }

  /** Ends everything. */
  failAll(error: Error): void {
    for (const lane of this.#all()) {
      clearTimeout(lane.deadline);
      lane.delivery.steers?.lost();
      lane.delivery.run.fail(error);
    }
    this.failWaiting(error);
  }

  #send(connection: Connection, streamId: string, delivery: Delivery): void {
    const lane = this.#put(connection, streamId, delivery);
    if (this.#open(lane) && delivery.cancelRequested) this.#sendCancel(lane);
  }

  /** Puts the run into a lane, where an answer is waited for. */
  #put(connection: Connection, streamId: string, delivery: Delivery): Lane {
    const { giveUpAfterMs } = this.#options.reconnect;
    const giveUp = (): void => {
      delivery.run.fail(new ConnectionError("The server has not answered the request."));
      this.#free(lane);
      this.#changed();
    };
    const deadline = giveUpAfterMs < LONGEST_TIMER_MS ? setTimeout(giveUp, giveUpAfterMs) : undefined;
    const lane: Lane = { connection, streamId, delivery, next: 0, answered: false, deadline };
    this.#lanes.get(connection)?.set(streamId, lane);
    return lane;
  }

  /** Requests the run from its first missing event. */
  #open(lane: Lane): boolean {
    const { connection, delivery, streamId } = lane;
    const text = delivery.run.opening(streamId);
    if (isLongerThan(text, connection.limits.messageBytes)) {
      delivery.run.fail(tooLarge());
      this.#free(lane);
      return false;
    }
    delivery.sent = true;
    lane.next = delivery.run.next;
    connection.send(text);
    return true;
  }

  /** Takes an event of the response. False when the connection was given up because events are missing before it. */
  #event(lane: Lane, message: Message): boolean {
    const { sequence_number: number, response_id } = message;
    const { run } = lane.delivery;
    if (typeof number !== "number" || typeof response_id !== "string" || number < lane.next) return true;
    if (run.responseId !== undefined && run.responseId !== response_id) return true;
    if (number > lane.next) {
      run.interrupted();
      lane.connection.abandon("an event is missing");
      return false;
    }
    lane.next++;
    lane.delivery.refusals = 0;
    run.receive(message);
    return true;
  }

  #answered(lane: Lane): void {
    lane.answered = true;
    clearTimeout(lane.deadline);
    if (!lane.delivery.suspect) return;
    lane.delivery.suspect = false;
    this.#changed();
  }

  #finished(lane: Lane): void {
    const { steers } = lane.delivery;
    this.#free(lane);
    if (!steers || steers.settled) return this.#changed();
    // The successor follows in the same lane, and commits what waits.
    const delivery = new Delivery(new Run("{}"));
    delivery.steers = steers;
    this.#put(lane.connection, lane.streamId, delivery);
  }

  #steered(lane: Lane, message: Message): void {
    const { run, steers } = lane.delivery;
    if (!steers) return;
    steers.receive(message);
    if (run.canReopen || !steers.settled) return;
    // The successor that was waited for will not come.
    this.#free(lane);
    this.#changed();
  }

  /** The current connection has the run, so a draining connection need not carry it any more. */
  #takenOver({ connection, delivery }: Lane): void {
    for (const other of this.#lanesOf(delivery)) if (other.connection !== connection) this.#free(other);
  }

  /**
   * A request that is refused for now is sent again: at once when only this server refuses because it is leaving, later when
   * the server says when. A request that names a response is sent again for as long as there is hope; a run that another
   * connection still carries loses nothing.
   */
  #refused(lane: Lane, message: Message, isCurrent: boolean): void {
    const { delivery } = lane;
    const { run } = delivery;
    const error = apiError(numberOr(message["status"], 500), message["error"], message["retry_after_ms"]);
    const { reconnect, maxRetries } = this.#options;
    const passing = error.status === 429 || error.status === 503;
    // A time to come back that is further away than a connection is waited for is the caller's to decide on.
    const waited = Date.now() + (error.retryAfterMs ?? 0) - delivery.waitingSince;
    const inTime = passing && waited < reconnect.giveUpAfterMs && run.canReopen;
    const invited = error.retryAfterMs !== undefined && delivery.refusals < maxRetries;
    // The server has nothing of a create that it refuses.
    delivery.sent = false;
    this.#free(lane, false);
    if (this.#lanesOf(delivery).length > 0) delivery.stays = true;
    else if (inTime && !isCurrent) this.#waiting.push(delivery);
    else if (inTime && (run.responseId !== undefined || invited)) this.#askAgain(delivery, error);
    else run.fail(error);
    this.#closeIfIdle(lane.connection);
    this.#changed();
  }

  #askAgain(delivery: Delivery, error: ApiError): void {
    const jitter = backoffDelay(delivery.refusals++, this.#options.reconnect);
    delivery.notBefore = Date.now() + (error.retryAfterMs ?? 0) + jitter;
    this.#waiting.push(delivery);
    tell(delivery.run.news.onRetry, { error, attempt: delivery.refusals, retryAt: delivery.notBefore });
  }

  #sendCancel({ connection, delivery: { run } }: Lane): void {
    if (run.responseId === undefined || run.ended) return;
    connection.send(encode({ type: "caudal:response.cancel", response_id: run.responseId }));
  }

  #takeWaiting(isBusy: boolean): Delivery | undefined {
    this.#prune();
    const now = Date.now();
    const next = this.#waiting.findIndex(({ notBefore, suspect }) => notBefore <= now && !(suspect && isBusy));
    return this.#waiting.splice(next, next < 0 ? 0 : 1)[0];
  }

  /** A run that only a draining connection carries and that another server can go on with. */
  #toMove(current: Connection | undefined): Delivery | undefined {
    return this.#all().find(({ connection, delivery }) => {
      const { run, stays } = delivery;
      const isOpen = connection !== current && run.responseId !== undefined && !run.ended && !stays;
      return isOpen && !this.#lanesOf(delivery).some((lane) => lane.connection === current);
    })?.delivery;
  }

  #vacant(connection: Connection): string | undefined {
    const busy = this.#lanes.get(connection);
    for (let lane = 0; busy && lane < connection.limits.lanes; lane++) {
      if (!busy.has(`lane-${lane}`)) return `lane-${lane}`;
    }
    return undefined;
  }

  #free(lane: Lane, closes = true): void {
    clearTimeout(lane.deadline);
    const lanes = this.#lanes.get(lane.connection);
    if (lanes?.get(lane.streamId) === lane) lanes.delete(lane.streamId);
    if (closes) this.#closeIfIdle(lane.connection);
  }

  #closeIfIdle(connection: Connection): void {
    if (connection.leaving && this.#of(connection).length === 0) connection.close();
  }

  #lane(connection: Connection, streamId: unknown): Lane | undefined {
    return typeof streamId === "string" ? this.#lanes.get(connection)?.get(streamId) : undefined;
  }

  #unanswered(connection: Connection): Lane[] {
    return this.#of(connection).filter((lane) => !lane.answered);
  }

  #lanesOf(delivery: Delivery): Lane[] {
    return this.#all().filter((lane) => lane.delivery === delivery);
  }

  #of(connection: Connection): Lane[] {
    return [...(this.#lanes.get(connection)?.values() ?? [])];
  }

  #all(): Lane[] {
    return this.connections().flatMap((connection) => this.#of(connection));
  }

  #prune(): void {
    this.#waiting = this.#waiting.filter(({ run }) => !run.ended);
  }
}

function tooLarge(): ApiError {
  return apiError(413, { code: "request_too_large", message: "The request is larger than the server takes." });
}
