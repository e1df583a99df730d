/**
 * Keeps runs connected: opens connections when there is a use for them, gives each run a lane, and after a loss waits,
 * connects again and resumes. The only place that decides when to connect.
 */

import { backoffDelay, type ReconnectOptions } from "./backoff.ts";
import { Connection, type Ending, type Message, numberOr } from "./connection.ts";
import { AuthenticationError, apiError, ClientClosedError, ConnectionError, ProtocolError } from "./errors.ts";
import type { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";

export type ConnectionState =
  | { status: "idle" }
  | { status: "connecting"; attempt: number }
  | { status: "connected"; connectionId: string | undefined }
  /** Lost, or not had yet: the next attempt is at `retryAt` (as `Date.now()` counts). */
  | { status: "waiting"; attempt: number; retryAt: number }
  /** The server will not have this client; the next request tries again. */
  | { status: "failed"; error: Error }
  | { status: "closed" };

export interface LinkOptions {
  socketUrl: string;
  webSocket: WebSocketConstructor;
  token: () => Promise<string | undefined>;
  /** Whether the server refuses this client's credentials: a browser's failed handshake does not say. */
  probe: () => Promise<AuthenticationError | undefined>;
  reconnect: Required<ReconnectOptions>;
}

/** Responses that one connection may carry at a time: the server's limit. More wait for a lane here. */
const LANES = 16;

export class Link {
  readonly #options: LinkOptions;
  /** Every open connection, with the run of each busy lane. All but the current one are draining. */
  readonly #lanes = new Map<Connection, Map<string, Run>>();
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  #current: Connection | undefined;
  #waiting: Run[] = [];
  #state: ConnectionState = { status: "idle" };
  #keepConnected = false;
  #attempt = 0;
  #opening = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  /** A draining server's word on when its successor will be there. */
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
    if (this.#state.status === "closed") throw new ClientClosedError("The client is closed.");
    this.#keepConnected = true;
    this.#retryNow();
    this.#pump();
  }

  add(run: Run): void {
    if (this.#state.status === "closed") return run.fail(new ClientClosedError("The client is closed."));
    this.#waiting.push(run);
    this.#pump();
  }

  /** Tells the server, when it can know of the run; a run that was never sent just leaves the queue. */
  cancel(run: Run): "sent" | "unsent" {
    run.cancelRequested = true;
    if (!run.sent && run.responseId === undefined) {
      this.#waiting = this.#waiting.filter((other) => other !== run);
      return "unsent";
    }
    for (const [connection, lanes] of this.#lanes) {
      for (const other of lanes.values()) if (other === run) this.#sendCancel(connection, run);
    }
    return "sent";
  }

  close(): void {
    this.#keepConnected = false;
    clearTimeout(this.#retry);
    globalThis.removeEventListener?.("online", this.#online);
    this.#setState({ status: "closed" });
    const error = new ClientClosedError("The client was closed.");
    for (const [connection, lanes] of [...this.#lanes]) {
      for (const run of lanes.values()) run.fail(error);
      connection.close();
    }
    this.#failWaiting(error);
  }

  /** Moves everything on as far as it goes: runs to free lanes, or else a connection on its way. */
  #pump(): void {
    if (this.#state.status === "closed") return;
    const current = this.#current;
    if (!current) {
      if (this.#waiting.length === 0 && !this.#keepConnected) return;
      if (this.#retry === undefined && !this.#opening) void this.#open();
      return;
    }
    const lanes = this.#lanes.get(current);
    if (!current.ready || !lanes) return;
    this.#waiting = this.#waiting.filter((run) => !run.ended);
    const now = Date.now();
    for (let lane = 0; lane < LANES; lane++) {
      const streamId = `lane-${lane}`;
      if (lanes.has(streamId)) continue;
      const next = this.#waiting.findIndex((run) => run.notBefore <= now);
      const run = this.#waiting.splice(next, next < 0 ? 0 : 1)[0];
      if (!run) return;
      lanes.set(streamId, run);
      current.send(run.opening(streamId));
      if (run.cancelRequested) this.#sendCancel(current, run);
    }
  }

  async #open(): Promise<void> {
    const early = this.#notBefore - Date.now();
    if (early > 0) return this.#retryIn(early);
    this.#opening = true;
    this.#setState({ status: "connecting", attempt: this.#attempt });
    // A token that cannot be fetched is most often one more sign of the lost network.
    const token = await this.#options.token().catch(() => null);
    this.#opening = false;
    if (this.#isClosed()) return;
    if (token === null) return this.#later(false);
    try {
      this.#current = new Connection(this.#options.socketUrl, token, this.#options.webSocket, {
        ready: (connection) => this.#ready(connection),
        message: (connection, message) => this.#receive(connection, message),
        draining: (connection, afterMs) => this.#draining(connection, afterMs),
        ended: (connection, ending) => void this.#ended(connection, ending),
      });
      this.#lanes.set(this.#current, new Map());
    } catch (cause) {
      this.#refuse(new ConnectionError("The address or the token is not one that a WebSocket takes.", { cause }));
    }
  }

  #ready(connection: Connection): void {
    this.#setState({ status: "connected", connectionId: connection.id });
    this.#pump();
  }

  #receive(connection: Connection, message: Message): void {
    const lanes = this.#lanes.get(connection);
    const streamId = message["stream_id"];
    const run = typeof streamId === "string" ? lanes?.get(streamId) : undefined;
    if (!lanes || !run || typeof streamId !== "string") return;
    const type = message["type"];
    if (type === "error") return this.#refused(connection, lanes, streamId, run, message);
    // Only what is about a response shows that the server is of use: a greeting alone does not reset the backoff.
    this.#attempt = 0;
    if (type === "caudal:response.queued") {
      const wait = message["estimated_wait_ms"];
      run.onQueued?.({
        position: numberOr(message["position"], 0),
        estimatedWaitMs: typeof wait === "number" ? wait : undefined,
      });
    }
    if (typeof type !== "string" || type.startsWith("caudal:")) return;
    const knew = run.responseId !== undefined;
    if (run.receive(message) === "gap") return connection.abandon("an event is missing");
    if (!knew && run.cancelRequested) this.#sendCancel(connection, run);
    if (run.terminal) this.#free(connection, lanes, streamId);
  }

  /**
   * A create that is refused fails, unless only this server refuses it because it is leaving. A response that exists and
   * cannot be had just now is asked for again.
   */
  #refused(connection: Connection, lanes: Map<string, Run>, streamId: string, run: Run, message: Message): void {
    const error = apiError(numberOr(message["status"], 500), message["error"], message["retry_after_ms"]);
    const { reconnect } = this.#options;
    const passing = error.status === 429 || error.status === 503;
    const inTime = Date.now() - run.waitingSince < reconnect.giveUpAfterMs;
    if (passing && connection !== this.#current && inTime) {
      this.#waiting.push(run);
    } else if (passing && run.responseId !== undefined && inTime) {
      const wait = Math.max(error.retryAfterMs ?? 0, backoffDelay(run.refusals++, reconnect));
      run.notBefore = Date.now() + wait;
      this.#waiting.push(run);
      setTimeout(() => this.#pump(), wait);
    } else {
      run.fail(error);
    }
    this.#free(connection, lanes, streamId);
  }

  #free(connection: Connection, lanes: Map<string, Run>, streamId: string): void {
    lanes.delete(streamId);
    if (connection !== this.#current && lanes.size === 0) connection.close();
    this.#pump();
  }

  #draining(connection: Connection, afterMs: number): void {
    this.#notBefore = Date.now() + afterMs;
    if (connection === this.#current) {
      this.#current = undefined;
      this.#setState({ status: "idle" });
    }
    if (this.#lanes.get(connection)?.size === 0) connection.close();
    this.#pump();
  }

  async #ended(connection: Connection, ending: Ending): Promise<void> {
    const runs = [...(this.#lanes.get(connection)?.values() ?? [])];
    this.#lanes.delete(connection);
    const wasCurrent = connection === this.#current;
    if (wasCurrent) this.#current = undefined;
    if (this.#isClosed()) return;
    for (const run of runs) {
      if (ending.verdict === "too_large" && run.responseId === undefined) {
        run.fail(apiError(413, { code: "request_too_large", message: "The request is larger than the server takes." }));
      }
    }
    const lost = runs.filter((run) => !run.ended);
    this.#waiting = [...lost, ...this.#waiting];
    // Time spent waiting for a lane is no time without a connection.
    for (const run of ending.wasReady ? this.#waiting : lost) run.waitingSince = Date.now();
    if (ending.verdict === "fail") return this.#refuse(refusal(ending));
    if (!wasCurrent) return this.#pump();
    if (!ending.wasReady) {
      // Whatever asks for a connection meanwhile waits for the answer.
      this.#opening = true;
      const refused = await this.#options.probe().finally(() => {
        this.#opening = false;
      });
      if (this.#isClosed()) return;
      if (refused) return this.#refuse(refused);
    }
    this.#later(ending.verdict === "later");
  }

  #later(patiently: boolean): void {
    const { giveUpAfterMs } = this.#options.reconnect;
    for (const run of this.#waiting) {
      if (Date.now() - run.waitingSince < giveUpAfterMs) continue;
      run.fail(new ConnectionError("The network connection to the server was lost and could not be had again."));
    }
    this.#waiting = this.#waiting.filter((run) => !run.ended);
    if (this.#waiting.length === 0 && !this.#keepConnected) return this.#setState({ status: "idle" });
    if (patiently) this.#attempt = Math.max(this.#attempt, 2);
    this.#retryIn(backoffDelay(this.#attempt++, this.#options.reconnect));
  }

  #retryIn(delayMs: number): void {
    if (this.#retry !== undefined) return;
    this.#setState({ status: "waiting", attempt: this.#attempt, retryAt: Date.now() + delayMs });
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
