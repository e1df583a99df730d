/**
 * Assigns runs to lanes of connections, and queues the runs that wait for a connection. While a server drains, two
 * connections may carry the same run. This module never opens a connection.
 */

import { backoffDelay, type ReconnectOptions } from "./backoff.ts";
import { type Connection, type Ending, TOO_LARGE } from "./connection.ts";
import { encode, isLongerThan, type Message } from "./encode.ts";
import { type ApiError, apiError, ConnectionError, errorIn, numberOr } from "./errors.ts";
import { isTerminal } from "./events.ts";
import { notify } from "./notify.ts";
import { Run } from "./run.ts";
import { after, type Timer } from "./timer.ts";

export interface DeliveryOptions {
  reconnect: Required<ReconnectOptions>;
  maxRetries: number;
  /** The number of runs that may wait for a connection. */
  maxWaiting: number;
}

/** Inputs to one running response that have no outcome yet. */
export interface PendingSteers {
  readonly settled: boolean;
  /** Handles a `response.steer.` event. */
  receive(message: Message): void;
  /** Resolves the inputs: the successor has begun and contains them. */
  commit(successor: Run): void;
  lost(): void;
}

/** One run on its way to the server. */
export class Delivery {
  readonly run: Run;
  steers: PendingSteers | undefined;
  cancelRequested = false;
  /** `true`: the server may have received the create. */
  sent = false;
  /** When the run began to wait for a connection, as `Date.now()` counts. */
  waitingSince: number = Date.now();
  /** The number of refusals in a row, and the time of the next try. */
  refusals = 0;
  notBefore = 0;
  /** `true`: another connection refused the run, so it stays on the connection that carries it. */
  stays = false;

  constructor(run: Run) {
    this.run = run;
  }
}

/** The lane that takes input for a running response. */
export interface Carrier {
  readonly connection: Pick<Connection, "send">;
  readonly delivery: Delivery;
  readonly streamId: string;
}

/** A run on a connection. */
interface Lane extends Carrier {
  readonly connection: Connection;
  /** The sequence number of the lane's next event. */
  next: number;
  /** Fails the run if the server does not answer in time; unset after the answer. */
  deadline: Timer | undefined;
}

export class Deliveries {
  readonly #options: DeliveryOptions;
  readonly #lanes = new Set<Lane>();
  /** Called when a lane has become free or a delivery waits. */
  readonly #changed: () => void;
  #waiting: Delivery[] = [];
  /**
   * `true` after an error that named no lane: one request at a time is sent, so the next such error is about that
   * request.
   */
  #isCareful = false;

  constructor(options: DeliveryOptions, changed: () => void) {
    this.#options = options;
    this.#changed = changed;
  }

  /** Queues a run. Returns `false` if too many runs wait already. */
  add(run: Run): boolean {
    this.#prune();
    if (this.#waiting.length >= this.#options.maxWaiting) return false;
    this.#waiting.push(new Delivery(run));
    return true;
  }

  /** Whether a run waits for a connection, or should move to another one. */
  get needs(): boolean {
    this.#prune();
    return this.#waiting.length > 0 || this.#toMove() !== undefined;
  }

  /** Counts the runs that follow this response. */
  runsOf(responseId: string): number {
    return this.#all().filter(({ run }) => run.responseId === responseId && !run.ended).length;
  }

  /** Whether a connection carries a run that has not ended. */
  get carries(): boolean {
    return [...this.#lanes].some(({ delivery }) => !delivery.run.ended);
  }

  /**
   * Fills the connection's lanes with waiting runs. Returns the time at which the next delayed run is due, if there is
   * one.
   */
  assign(current: Connection): number | undefined {
    const now = Date.now();
    while (!this.#isCareful || this.#unanswered(current).length === 0) {
      const streamId = this.#vacant(current);
      const delivery = streamId && (this.#takeWaiting(now) ?? this.#toMove());
      if (!delivery) break;
      this.#send(current, streamId, delivery);
    }
    const times = this.#waiting.map(({ notBefore }) => notBefore).filter((time) => time > now);
    return times.length > 0 ? Math.min(...times) : undefined;
  }

  /** Requests a cancel at the server. "unsent": the server cannot know of the run, so the caller ends it. */
  cancel(run: Run): "sent" | "unsent" {
    const delivery = this.#all().find((each) => each.run === run);
    if (!delivery || (!delivery.sent && run.responseId === undefined)) return "unsent";
    delivery.cancelRequested = true;
    for (const lane of this.#lanesOf(delivery)) this.#sendCancel(lane);
    return "sent";
  }

  /** Returns the lane that takes input for a response, if there is one. */
  carrier(run: Run): Carrier | undefined {
    return [...this.#lanes].find((lane) => lane.delivery.run === run && !lane.deadline && !lane.connection.leaving);
  }

  /** Handles a message that names a lane. */
  receive(connection: Connection, message: Message): void {
    const { type, stream_id } = message;
    const lane = this.#of(connection).find((each) => each.streamId === stream_id);
    if (!lane) return;
    if (type === "error") return this.#refused(lane, message);
    const { delivery } = lane;
    const { run } = delivery;
    if (typeof type !== "string") return;
    if (type.startsWith("response.steer.")) return this.#steered(lane, message);
    if (!connection.leaving) this.#takenOver(lane);
    const news = run.ended ? {} : run.news;
    const knew = run.responseId !== undefined;
    if (type === "caudal:response.queued") {
      const { position, estimated_wait_ms: wait } = message;
      notify(news.onQueued, { position: numberOr(position, 0), estimatedWaitMs: numberOr(wait, undefined) });
    }
    if (type === "caudal:response.recovering") notify(news.onRecovering, undefined);
    if (type === "caudal:response.resumed" && run.resumed(message) === "again") this.#open(lane);
    if (!type.startsWith("caudal:") && !this.#event(lane, message)) return;
    if (run.responseId !== undefined) this.#answered(lane);
    if (run.ended && isTerminal(message)) return this.#finished(lane);
    if (knew || run.responseId === undefined) return;
    delivery.steers?.commit(run);
    if (delivery.cancelRequested) this.#sendCancel(lane);
    // The draining server has sent the response's id, so the run can move to another server.
    if (connection.leaving) this.#changed();
  }

  /** Handles an error that names no lane: it answers one of the unanswered requests. */
  receiveError(connection: Connection, message: Message): void {
    const unanswered = this.#unanswered(connection);
    const [first] = unanswered;
    if (!first) return;
    this.#isCareful = unanswered.length > 1;
    if (this.#isCareful) connection.abandon("an error names no lane");
    else this.#refused(first, message);
  }

  /** Handles a drain: removes the runs from this connection that an older connection still carries. */
  draining(connection: Connection): void {
    for (const lane of this.#of(connection)) {
      if (this.#lanesOf(lane.delivery).length > 1) this.#leave(lane);
    }
    this.#closeIfIdle(connection);
  }

  /** Handles the end of a connection. Returns whether a run of this connection now waits for another one. */
  lost(connection: Connection, ending: Ending): boolean {
    const lost: Delivery[] = [];
    const lanes = this.#of(connection);
    for (const lane of lanes) {
      const { delivery } = lane;
      const { run } = delivery;
      this.#leave(lane);
      delivery.stays = false;
      delivery.steers?.lost();
      if (ending.code === TOO_LARGE && run.responseId === undefined) run.fail(tooLarge());
      else if (!run.canReopen) run.fail(connectionLost());
      else if (this.#lanesOf(delivery).length === 0) lost.push(delivery);
    }
    this.#waiting = [...lost, ...this.#waiting];
    // If the connection answered anything, time spent waiting for one of its lanes was not time without a connection.
    if (lanes.some(({ deadline }) => !deadline)) for (const each of this.#waiting) each.waitingSince = Date.now();
    return lost.length > 0;
  }

  /** Fails the runs that have waited for a connection longer than `giveUpAfterMs`. */
  giveUp(): void {
    for (const { run, waitingSince } of this.#waiting) {
      if (Date.now() - waitingSince < this.#options.reconnect.giveUpAfterMs) continue;
      run.fail(connectionLost());
    }
  }

  failWaiting(error: Error): void {
    for (const { run } of this.#waiting.splice(0)) run.fail(error);
  }

  #send(connection: Connection, streamId: string, delivery: Delivery): void {
    const lane = this.#put(connection, streamId, delivery);
    if (this.#open(lane) && delivery.cancelRequested) this.#sendCancel(lane);
  }

  /** Puts the run into a lane and starts the deadline for the server's answer. */
  #put(connection: Connection, streamId: string, delivery: Delivery): Lane {
    const { giveUpAfterMs } = this.#options.reconnect;
    const giveUp = (): void => {
      delivery.run.fail(new ConnectionError("The server has not answered the request."));
      this.#free(lane);
      this.#changed();
    };
    const deadline = after(giveUpAfterMs, giveUp);
    const lane: Lane = { connection, streamId, delivery, next: 0, deadline };
    this.#lanes.add(lane);
    return lane;
  }

  /**
   * Requests the response from its first missing event. Returns `false` if the request is too large, which fails the
   * run.
   */
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

  /** Handles an event of the response. Returns `false` if an earlier event is missing, which ends the connection. */
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
    clearTimeout(lane.deadline);
    lane.deadline = undefined;
    if (!this.#isCareful) return;
    this.#isCareful = this.#waiting.length > 0;
    this.#changed();
  }

  #finished(lane: Lane): void {
    const { steers } = lane.delivery;
    this.#free(lane);
    if (!steers || steers.settled) return this.#changed();
    // The successor comes in the same lane; its first event commits the waiting inputs.
    const delivery = new Delivery(new Run("{}"));
    delivery.steers = steers;
    this.#put(lane.connection, lane.streamId, delivery);
  }

  #steered(lane: Lane, message: Message): void {
    const { run, steers } = lane.delivery;
    if (!steers) return;
    steers.receive(message);
    if (run.canReopen || !steers.settled) return;
    // The lane waited for a successor, which will not come.
    this.#free(lane);
    this.#changed();
  }

  /** Removes the run from draining connections: the current connection carries it now. */
  #takenOver({ connection, delivery }: Lane): void {
    for (const other of this.#lanesOf(delivery)) if (other.connection !== connection) this.#free(other);
  }

  /**
   * Handles a refusal. Retries a request that was refused for lack of room: at once if the server drains, else at the
   * time that the server names. A create is retried at most `maxRetries` times, a resume until `giveUpAfterMs`. A run
   * that another connection still carries stays there.
   */
  #refused(lane: Lane, message: Message): void {
    const { connection, delivery } = lane;
    const { run } = delivery;
    const error = errorIn(message);
    const { reconnect, maxRetries } = this.#options;
    const passing = error.status === 429 || error.status === 503;
    // If the retry time is later than `giveUpAfterMs`, the run fails and the caller decides whether to retry.
    const waited = Date.now() + (error.retryAfterMs ?? 0) - delivery.waitingSince;
    const inTime = passing && waited < reconnect.giveUpAfterMs && run.canReopen;
    const invited = error.retryAfterMs !== undefined && delivery.refusals < maxRetries;
    // The server stores nothing of a create that it refuses.
    delivery.sent = false;
    this.#leave(lane);
    if (this.#lanesOf(delivery).length > 0) delivery.stays = true;
    else if (inTime && connection.leaving) this.#waiting.push(delivery);
    else if (inTime && (run.responseId !== undefined || invited)) this.#askAgain(delivery, error);
    else run.fail(error);
    this.#closeIfIdle(connection);
    this.#changed();
  }

  #askAgain(delivery: Delivery, error: ApiError): void {
    const jitter = backoffDelay(delivery.refusals++, this.#options.reconnect);
    delivery.notBefore = Date.now() + (error.retryAfterMs ?? 0) + jitter;
    this.#waiting.push(delivery);
    notify(delivery.run.news.onRetry, { error, attempt: delivery.refusals, retryAt: delivery.notBefore });
  }

  #sendCancel({ connection, delivery: { run } }: Lane): void {
    if (run.responseId === undefined || run.ended) return;
    connection.send(encode({ type: "caudal:response.cancel", response_id: run.responseId }));
  }

  #takeWaiting(now: number): Delivery | undefined {
    this.#prune();
    const next = this.#waiting.findIndex(({ notBefore }) => notBefore <= now);
    return this.#waiting.splice(next, next < 0 ? 0 : 1)[0];
  }

  /** Finds a run that only draining connections carry and that can move to another server. */
  #toMove(): Delivery | undefined {
    return this.#all().find((delivery) => {
      const { run, stays } = delivery;
      const lanes = this.#lanesOf(delivery);
      const isLeaving = lanes.length > 0 && lanes.every(({ connection }) => connection.leaving);
      return isLeaving && run.responseId !== undefined && !run.ended && !stays;
    });
  }

  #vacant(connection: Connection): string | undefined {
    const busy = new Set(this.#of(connection).map(({ streamId }) => streamId));
    for (let lane = 0; lane < connection.limits.lanes; lane++) {
      if (!busy.has(`lane-${lane}`)) return `lane-${lane}`;
    }
    return undefined;
  }

  #free(lane: Lane): void {
    this.#leave(lane);
    this.#closeIfIdle(lane.connection);
  }

  #leave(lane: Lane): void {
    clearTimeout(lane.deadline);
    this.#lanes.delete(lane);
  }

  #closeIfIdle(connection: Connection): void {
    if (connection.leaving && this.#of(connection).length === 0) connection.close();
  }

  #unanswered(connection: Connection): Lane[] {
    return this.#of(connection).filter((lane) => lane.deadline);
  }

  #of(connection: Connection): Lane[] {
    return [...this.#lanes].filter((lane) => lane.connection === connection);
  }

  #lanesOf(delivery: Delivery): Lane[] {
    return [...this.#lanes].filter((lane) => lane.delivery === delivery);
  }

  /** All deliveries: those in a lane and those that wait. */
  #all(): Delivery[] {
    return [...new Set([...[...this.#lanes].map(({ delivery }) => delivery), ...this.#waiting])];
  }

  #prune(): void {
    this.#waiting = this.#waiting.filter(({ run }) => !run.ended);
  }
}

function connectionLost(): ConnectionError {
  return new ConnectionError("The connection to the server was lost.");
}

function tooLarge(): ApiError {
  return apiError(413, { code: "request_too_large", message: "The request is larger than the server accepts." });
}
