/**
 * Keeps runs connected: opens connections when there is a use for them, gives each run a lane, and after a loss waits,
 * connects again and resumes. When a server drains, the new connection takes its runs over before the old one ends. The
 * only place that decides when to connect.
 */

import { backoffDelay, type ReconnectOptions } from "./backoff.ts";
import { Connection, type Ending, type Message, numberOr } from "./connection.ts";
import {
  type ApiError,
  AuthenticationError,
  apiError,
  ClientClosedError,
  ConnectionError,
  ProtocolError,
} from "./errors.ts";
import { isTerminalType } from "./events.ts";
import { Lanes } from "./lanes.ts";
import type { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";

export type ConnectionState =
  | { status: "idle" }
  | { status: "connecting"; attempt: number }
  | { status: "connected"; connectionId: string | undefined }
  /** The server is leaving. What runs goes on over the old connection until a new one has it. */
  | { status: "moving" }
  /** Lost, or not had yet: the next attempt is at `retryAt` (as `Date.now()` counts). */
  | { status: "waiting"; attempt: number; retryAt: number }
  /** The server will not have this client; the next request tries again. */
  | { status: "failed"; error: Error }
  | { status: "closed" };

export interface LinkOptions {
  socketUrl: string;
  webSocket: WebSocketConstructor;
  token: () => Promise<string | undefined>;
  /** Whether `token` fetches a new one: then a token that has expired is no reason to give up. */
  renewsToken: boolean;
  /** What the server says against this client over HTTP: a browser's failed handshake does not say. */
  probe: () => Promise<ApiError | undefined>;
  reconnect: Required<ReconnectOptions>;
  maxRetries: number;
}

/** Who wants to know of a conversation's turns. */
export interface Watcher {
  conversation: string;
  /** There is a connection, which the server has still to be told of. */
  connected(): void;
  turn(responseId: string): void;
}

export class Link {
  readonly #options: LinkOptions;
  /** Every open connection. All but the current one are draining. */
  readonly #lanes = new Lanes();
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #watchers = new Set<Watcher>();
  #current: Connection | undefined;
  /** Runs that no connection carries. */
  #waiting: Run[] = [];
  #state: ConnectionState = { status: "idle" };
  /** What `#state` is once nothing is carried any more. */
  #unconnected: ConnectionState = { status: "idle" };
  #keepConnected = false;
  #attempt = 0;
  #opening = false;
  /** Before the next attempt to connect. */
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** Before the first of the runs that wait for their time. */
  #alarm: ReturnType<typeof setTimeout> | undefined;
  /** The server's word on when to come back. */
  #notBefore = 0;
  readonly #online = (): void => this.#retryNow();

  constructor(options: LinkOptions) {
    this.#options = options;
    globalThis.addEventListener?.("online", this.#online);
  }

  get state(): ConnectionState {
    return this.#state;
  }

  onStateChange(listener: (state: ConnectionState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Connects before there is anything to send, stays connected, and does not wait out a running backoff. */
  connect(): void {
    if (this.#isClosed()) throw new ClientClosedError("The client is closed.");
    this.#keepConnected = true;
    this.#retryNow();
    this.#pump();
  }

  add(run: Run): void {
    if (this.#isClosed()) return run.fail(new ClientClosedError("The client is closed."));
    this.#waiting.push(run);
    this.#pump();
  }

  /** Stays connected for it until what is returned is called. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    if (this.#current?.ready) watcher.connected();
    else this.#pump();
    return () => this.#watchers.delete(watcher);
  }

  /** How many runs are of this response. */
  runsOf(responseId: string): number {
    const carried = this.#lanes.connections().flatMap((connection) => this.#lanes.runs(connection));
    const runs = new Set([...carried, ...this.#waiting]);
    return [...runs].filter((run) => run.responseId === responseId && !run.ended).length;
  }

  /** Tells the server, when it can know of the run; a run that it cannot know of just leaves the queue. */
  cancel(run: Run): "sent" | "unsent" {
    run.cancelRequested = true;
    if (!run.sent && run.responseId === undefined) {
      this.#waiting = this.#waiting.filter((other) => other !== run);
      return "unsent";
    }
    for (const connection of this.#lanes.carriers(run)) this.#sendCancel(connection, run);
    return "sent";
  }

  close(): void {
    this.#keepConnected = false;
    clearTimeout(this.#retry);
    clearTimeout(this.#alarm);
    globalThis.removeEventListener?.("online", this.#online);
    this.#setState({ status: "closed" });
    const error = new ClientClosedError("The client was closed.");
    for (const connection of this.#lanes.connections()) {
      for (const run of this.#lanes.close(connection)) run.fail(error);
      connection.close();
    }
    this.#failWaiting(error);
  }

  /** Moves everything on as far as it goes: runs to free lanes, or else a connection on its way. */
  #pump(): void {
    if (this.#isClosed()) return;
    this.#waiting = this.#waiting.filter((run) => !run.ended);
    const current = this.#current;
    if (!current) {
      if (this.#retry !== undefined || this.#opening) return;
      if (this.#isNeeded()) void this.#open();
      else if (this.#state.status !== "failed") this.#setUnconnected({ status: "idle" });
      return;
    }
    if (!current.ready) return;
    for (;;) {
      const streamId = this.#lanes.vacant(current);
      if (streamId === undefined) return;
      const run = this.#takeWaiting() ?? this.#toMove();
      if (!run) break;
      this.#lanes.take(current, streamId, run);
      current.send(run.opening(streamId));
      if (run.cancelRequested) this.#sendCancel(current, run);
    }
    clearTimeout(this.#alarm);
    if (this.#waiting.length === 0) return;
    const first = Math.min(...this.#waiting.map((run) => run.notBefore));
    this.#alarm = setTimeout(() => this.#pump(), first - Date.now());
  }

  /** Whether anything has a use for a connection. */
  #isNeeded(): boolean {
    return this.#waiting.length > 0 || this.#keepConnected || this.#watchers.size > 0 || this.#toMove() !== undefined;
  }

  #takeWaiting(): Run | undefined {
    const now = Date.now();
    const next = this.#waiting.findIndex((run) => run.notBefore <= now);
    return this.#waiting.splice(next, next < 0 ? 0 : 1)[0];
  }

  /** A run that only a draining connection carries and that another server can go on with. */
  #toMove(): Run | undefined {
    return this.#lanes
      .connections()
      .flatMap((connection) => (connection === this.#current ? [] : this.#lanes.runs(connection)))
      .find((run) => run.responseId !== undefined && !run.ended && !run.stays && !this.#isOnCurrent(run));
  }

  #isOnCurrent(run: Run): boolean {
    return this.#current !== undefined && this.#lanes.runs(this.#current).includes(run);
  }

  async #open(): Promise<void> {
    const early = this.#notBefore - Date.now();
    if (early > 0) return this.#retryIn(early);
    this.#opening = true;
    this.#setUnconnected({ status: "connecting", attempt: this.#attempt });
    // A token that cannot be fetched is most often one more sign of the lost network.
    const token = await this.#options.token().catch(() => null);
    this.#opening = false;
    if (this.#isClosed()) return;
    if (token === null) return this.#later();
    try {
      this.#current = new Connection(this.#options.socketUrl, token, this.#options.webSocket, {
        ready: (connection) => this.#ready(connection),
        message: (connection, message) => this.#receive(connection, message),
        draining: (connection, afterMs) => this.#draining(connection, afterMs),
        ended: (connection, ending) => void this.#ended(connection, ending),
      });
      this.#lanes.open(this.#current);
    } catch (cause) {
      this.#refuse(new ConnectionError("The address or the token is not one that a WebSocket takes.", { cause }));
    }
  }

  #ready(connection: Connection): void {
    this.#setState({ status: "connected", connectionId: connection.id });
    this.#pump();
    for (const watcher of [...this.#watchers]) watcher.connected();
  }

  #receive(connection: Connection, message: Message): void {
    if (message["type"] === "caudal:conversation.turn") return this.#announce(message);
    const streamId = message["stream_id"];
    const run = typeof streamId === "string" ? this.#lanes.get(connection, streamId) : undefined;
    if (!run || typeof streamId !== "string") return;
    const type = message["type"];
    if (type === "error") return this.#refused(connection, streamId, run, message);
    // Only what is about a response shows that the server is of use: a greeting alone does not reset the backoff.
    if (connection === this.#current) {
      this.#attempt = 0;
      this.#takenOver(connection, run);
    }
    if (type === "caudal:response.queued") {
      const wait = message["estimated_wait_ms"];
      run.news.onQueued?.({
        position: numberOr(message["position"], 0),
        estimatedWaitMs: typeof wait === "number" ? wait : undefined,
      });
    }
    const knew = run.responseId !== undefined;
    if (type === "caudal:response.resumed" && run.resumed(message) === "again") connection.send(run.opening(streamId));
    if (typeof type !== "string") return;
    if (!type.startsWith("caudal:") && run.receive(message) === "gap") return connection.abandon("an event is missing");
    if (!knew && run.cancelRequested) this.#sendCancel(connection, run);
    if (isTerminalType(type)) this.#free(connection, streamId);
    // A draining server has named it, so another one can have it.
    else if (!knew && connection !== this.#current) this.#pump();
  }

  #announce({ conversation, response_id }: Message): void {
    if (typeof response_id !== "string") return;
    for (const watcher of [...this.#watchers]) if (watcher.conversation === conversation) watcher.turn(response_id);
  }

  /** The current connection has the run now: the draining one need not carry it any more. */
  #takenOver(connection: Connection, run: Run): void {
    for (const other of this.#lanes.carriers(run)) {
      if (other === connection) continue;
      this.#lanes.remove(other, run);
      this.#closeIfIdle(other);
    }
  }

  /**
   * A request that is refused for now is sent again: at once when only this server refuses it because it is leaving, later
   * when the server says when. One that names a response is sent again for as long as there is hope; a run that another
   * connection still carries loses nothing.
   */
  #refused(connection: Connection, streamId: string, run: Run, message: Message): void {
    const error = apiError(numberOr(message["status"], 500), message["error"], message["retry_after_ms"]);
    const { reconnect, maxRetries } = this.#options;
    this.#lanes.free(connection, streamId);
    const passing = error.status === 429 || error.status === 503;
    // A time to come back that is further away than a connection is waited for is the caller's to decide on.
    const waited = Date.now() + (error.retryAfterMs ?? 0) - run.waitingSince;
    const inTime = passing && waited < reconnect.giveUpAfterMs;
    const exists = run.responseId !== undefined;
    const invited = error.retryAfterMs !== undefined && run.refusals < maxRetries;
    // The server has nothing of a create that it refuses.
    run.sent = false;
    if (this.#lanes.carriers(run).length > 0) run.stays = true;
    else if (inTime && connection !== this.#current) this.#waiting.push(run);
    else if (inTime && (exists || invited)) this.#askAgain(run, error);
    else run.fail(error);
    this.#closeIfIdle(connection);
    this.#pump();
  }

  #askAgain(run: Run, error: ApiError): void {
    const retryAt = Date.now() + (error.retryAfterMs ?? 0) + backoffDelay(run.refusals++, this.#options.reconnect);
    run.notBefore = retryAt;
    this.#waiting.push(run);
    run.news.onRetry?.({ error, attempt: run.refusals, retryAt });
  }

  #free(connection: Connection, streamId: string): void {
    this.#lanes.free(connection, streamId);
    this.#closeIfIdle(connection);
    this.#pump();
  }

  #closeIfIdle(connection: Connection): void {
    if (connection !== this.#current && this.#lanes.runs(connection).length === 0) connection.close();
  }

  #draining(connection: Connection, afterMs: number): void {
    // What it was given a moment ago, and the connection before it still carries, it need not begin.
    for (const run of this.#lanes.runs(connection)) {
      if (this.#lanes.carriers(run).length > 1) this.#lanes.remove(connection, run);
    }
    // All its clients are told at once: they come back spread out.
    this.#notBefore = Date.now() + afterMs + backoffDelay(this.#attempt++, this.#options.reconnect);
    if (connection === this.#current) {
      this.#current = undefined;
      this.#setUnconnected({ status: "idle" });
    }
    this.#closeIfIdle(connection);
    this.#pump();
  }

  async #ended(connection: Connection, ending: Ending): Promise<void> {
    const runs = this.#lanes.close(connection);
    const wasCurrent = connection === this.#current;
    if (wasCurrent) this.#current = undefined;
    if (this.#isClosed()) return;
    for (const run of runs) {
      run.stays = false;
      if (ending.verdict === "too_large" && run.responseId === undefined) {
        run.fail(apiError(413, { code: "request_too_large", message: "The request is larger than the server takes." }));
      }
    }
    const lost = runs.filter((run) => !run.ended && this.#lanes.carriers(run).length === 0);
    this.#waiting = [...lost, ...this.#waiting];
    // Time spent waiting for a lane is no time without a connection.
    for (const run of ending.wasReady ? this.#waiting : lost) run.waitingSince = Date.now();
    const expired = ending.code === 1008 && ending.wasReady && this.#options.renewsToken;
    if (ending.verdict === "fail" && !expired) return this.#refuse(refusal(ending));
    if (!wasCurrent) {
      if (lost.length > 0) this.#hurry();
      if (this.#state.status === "moving") this.#setUnconnected(this.#unconnected);
      return this.#pump();
    }
    let { error } = ending;
    if (!ending.wasReady) {
      // Whatever asks for a connection meanwhile waits for the answer.
      this.#opening = true;
      error = await this.#options.probe().finally(() => {
        this.#opening = false;
      });
      if (this.#isClosed()) return;
      if (error instanceof AuthenticationError) return this.#refuse(error);
    }
    this.#later(ending.verdict === "later" ? 2 : 0, error?.retryAfterMs);
  }

  /**
   * A draining server has closed before there was another: what it carried does not wait for the time that it named, for
   * other replicas may have it already. The drain has counted as an attempt.
   */
  #hurry(): void {
    this.#notBefore = 0;
    if (this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#retryIn(backoffDelay(Math.max(0, this.#attempt - 1), this.#options.reconnect));
  }

  /** Connects again after a wait: at least as long as the server asks for, and that of attempt number `atLeast`. */
  #later(atLeast = 0, retryAfterMs = 0): void {
    const { giveUpAfterMs } = this.#options.reconnect;
    for (const run of this.#waiting) {
      if (Date.now() - run.waitingSince < giveUpAfterMs) continue;
      run.fail(new ConnectionError("The network connection to the server was lost and could not be had again."));
    }
    this.#waiting = this.#waiting.filter((run) => !run.ended);
    if (!this.#isNeeded()) return this.#setUnconnected({ status: "idle" });
    this.#attempt = Math.max(this.#attempt, atLeast);
    this.#retryIn(retryAfterMs + backoffDelay(this.#attempt++, this.#options.reconnect));
  }

  #retryIn(delayMs: number): void {
    if (this.#retry !== undefined) return;
    this.#setUnconnected({ status: "waiting", attempt: this.#attempt, retryAt: Date.now() + delayMs });
    this.#retry = setTimeout(() => this.#retryNow(), delayMs);
  }

  #retryNow(): void {
    if (this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#pump();
  }

  #refuse(error: Error): void {
    this.#setState({ status: "failed", error });
    this.#failWaiting(error);
  }

  #failWaiting(error: Error): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const run of waiting) run.fail(error);
  }

  #sendCancel(connection: Connection, run: Run): void {
    if (run.responseId !== undefined && !run.ended) {
      connection.send({ type: "caudal:response.cancel", response_id: run.responseId });
    }
  }

  #isClosed(): boolean {
    return this.#state.status === "closed";
  }

  /** There is no connection for what is new; what runs may still have one. */
  #setUnconnected(state: ConnectionState): void {
    this.#unconnected = state;
    const carried = this.#lanes.connections().some((connection) => {
      return connection.ready && this.#lanes.runs(connection).some((run) => !run.ended);
    });
    const next: ConnectionState = carried ? { status: "moving" } : state;
    const isNews = next.status !== this.#state.status || next.status === "waiting" || next.status === "connecting";
    if (isNews) this.#setState(next);
  }

  #setState(state: ConnectionState): void {
    if (this.#isClosed()) return;
    this.#state = state;
    for (const listener of [...this.#listeners]) listener(state);
  }
}

function refusal(ending: Ending): Error {
  if (ending.error) return ending.error;
  const why = ending.reason === "" ? `close code ${ending.code}` : ending.reason;
  if (ending.code === 1008) {
    return new AuthenticationError(403, { type: "error", code: "policy", message: `Refused: ${why}.`, param: null });
  }
  return new ProtocolError(`The server ended the connection for good: ${why}.`);
}
