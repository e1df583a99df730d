/**
 * Decides when to connect, how, and when to give up. Opens a connection when there is a use for it; after a loss waits and
 * connects again; replaces a connection whose server drains or whose token ends before the old one is closed.
 */

import { backoffDelay } from "./backoff.ts";
import type { Connection, ConnectionListener, Ending } from "./connection.ts";
import { type Carrier, Deliveries, type DeliveryOptions } from "./deliveries.ts";
import type { Message } from "./encode.ts";
import { AuthenticationError, ClientClosedError, ConnectionError, ProtocolError, QueueFullError } from "./errors.ts";
import type { Http } from "./http.ts";
import { lazy } from "./lazy.ts";
import type { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";
import { SocketConnection } from "./socket-connection.ts";
import { tell } from "./tell.ts";
import { onWake } from "./wake.ts";

export type ConnectionState =
  | { status: "idle" }
  | { status: "connecting"; attempt: number }
  | { status: "connected"; connectionId: string | undefined; transport: "websocket" | "sse" }
  /** The server is leaving. Running responses go on over the old connection until a new one has them. */
  | { status: "moving" }
  /** Lost, or not had yet: the next attempt is at `retryAt` (as `Date.now()` counts). */
  | { status: "waiting"; attempt: number; retryAt: number }
  /** The server refuses this client; the next request tries again. */
  | { status: "failed"; error: Error }
  | { status: "closed" };

/** Where the link stands with the connection for new requests. */
type Phase =
  | { name: "idle" }
  /** The token is being fetched, or HTTP is asked why a handshake failed: nothing else begins meanwhile. */
  | { name: "preparing" }
  | { name: "connecting"; connection: Connection }
  | { name: "connected"; connection: Connection }
  | { name: "waiting"; timer: ReturnType<typeof setTimeout>; retryAt: number }
  | { name: "failed"; error: Error }
  | { name: "closed" };

export interface LinkOptions extends DeliveryOptions {
  /** Absent where there is none: then everything goes over HTTP. */
  webSocket: WebSocketConstructor | undefined;
  http: Http;
}

/** Who wants to know of conversations' turns. */
export interface Watcher {
  /** There is a connection, which the server has still to be told of. */
  connected(): void;
  /** Takes a `caudal:conversation.turn`. */
  turn(message: Message): void;
}

/** Handshakes in a row that failed though HTTP works, before WebSockets are taken to be blocked. */
const BLOCKED_AFTER = 2;

export class Link {
  readonly #options: LinkOptions;
  readonly #deliveries: Deliveries;
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #watchers = new Set<Watcher>();
  readonly #stopWaking: () => void;
  #phase: Phase = { name: "idle" };
  #state: ConnectionState = { status: "idle" };
  #keepConnected = false;
  #attempt = 0;
  #blocked = 0;
  /** Before the first of the runs that wait for their time. */
  #alarm: ReturnType<typeof setTimeout> | undefined;
  /** Before the token of the connection ends. */
  #renewal: ReturnType<typeof setTimeout> | undefined;
  /** The server's word on when to come back. */
  #notBefore = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#deliveries = new Deliveries(options, () => this.#pump());
    this.#stopWaking = onWake(() => this.#woken());
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
    if (this.#isClosed()) throw closed();
    this.#keepConnected = true;
    this.#retryNow();
    this.#pump();
  }

  add(run: Run): void {
    if (run.ended) return;
    if (this.#isClosed()) return run.fail(closed());
    if (!this.#deliveries.add(run)) return run.fail(new QueueFullError("Too many requests wait for a connection."));
    this.#pump();
  }

  /** Stays connected for it until the returned function is called. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    if (this.#phase.name === "connected") watcher.connected();
    else this.#pump();
    return () => this.#watchers.delete(watcher);
  }

  /** How many runs follow this response. */
  runsOf(responseId: string): number {
    return this.#deliveries.runsOf(responseId);
  }

  /** Tells the server, when it can know of the run; a run that it cannot know of just leaves the queue. */
  cancel(run: Run): "sent" | "unsent" {
    return this.#deliveries.cancel(run);
  }

  /** The connection and the lane in which the response can be given input. */
  carrier(run: Run): Carrier | undefined {
    return this.#phase.name === "connected" ? this.#deliveries.carrier(run, this.#phase.connection) : undefined;
  }

  close(): void {
    if (this.#isClosed()) return;
    this.#keepConnected = false;
    clearTimeout(this.#alarm);
    clearTimeout(this.#renewal);
    this.#stopWaking();
    this.#enter({ name: "closed" });
    this.#deliveries.failAll(closed());
    for (const connection of this.#deliveries.connections()) connection.close();
  }

  /** Moves everything on as far as it goes: runs to free lanes, or else a connection on its way. */
  #pump(): void {
    const phase = this.#phase;
    if (phase.name === "connected") {
      const dueAt = this.#deliveries.assign(phase.connection);
      clearTimeout(this.#alarm);
      if (dueAt !== undefined && dueAt > Date.now()) this.#alarm = setTimeout(() => this.#pump(), dueAt - Date.now());
    } else if (phase.name === "idle" || phase.name === "failed") {
      if (this.#isNeeded()) void this.#open();
      else this.#publish();
    }
  }

  /** Whether anything has a use for a connection. */
  #isNeeded(): boolean {
    return this.#keepConnected || this.#watchers.size > 0 || this.#deliveries.needs(undefined);
  }

  async #open(): Promise<void> {
    const early = this.#notBefore - Date.now();
    if (early > 0) return this.#wait(early);
    this.#enter({ name: "preparing" });
    // A token that cannot be fetched is most often one more sign of the lost network.
    const token = await this.#options.http.tokens.get().catch(() => null);
    if (this.#isClosed()) return;
    if (token === null) return this.#later();
    const { webSocket } = this.#options;
    try {
      const connection =
        webSocket && this.#blocked < BLOCKED_AFTER ? this.#socket(webSocket, token) : await this.#sse();
      if (this.#isClosed()) return connection.close();
      this.#deliveries.open(connection);
      this.#enter({ name: "connecting", connection });
    } catch (cause) {
      if (cause instanceof ConnectionError) return this.#later();
      this.#refuse(new ConnectionError("The address or the token is not one that a WebSocket takes.", { cause }));
    }
  }

  #socket(webSocket: WebSocketConstructor, token: string | undefined): Connection {
    return new SocketConnection(this.#options.http.url("responses", "ws").href, token, webSocket, this.#listener());
  }

  /** The code for it is loaded when it is needed. */
  async #sse(): Promise<Connection> {
    const { SseConnection } = await lazy(() => import("./sse.ts"));
    return new SseConnection(this.#options.http, this.#listener());
  }

  #listener(): ConnectionListener {
    return {
      ready: (connection) => this.#ready(connection),
      message: (connection, message) => this.#receive(connection, message),
      draining: (connection, afterMs) => {
        // All clients of the server are told at once: they come back spread out.
        this.#notBefore = Date.now() + afterMs + backoffDelay(this.#attempt++, this.#options.reconnect);
        this.#replace(connection);
      },
      ended: (connection, ending) => void this.#ended(connection, ending),
    };
  }

  #ready(connection: Connection): void {
    if (connection instanceof SocketConnection) this.#blocked = 0;
    this.#enter({ name: "connected", connection });
    const { renewAt } = this.#options.http.tokens;
    clearTimeout(this.#renewal);
    if (renewAt !== undefined) this.#renewal = setTimeout(() => this.#replace(connection), renewAt - Date.now());
    this.#pump();
    for (const watcher of [...this.#watchers]) watcher.connected();
  }

  #receive(connection: Connection, message: Message): void {
    if (message["type"] === "caudal:conversation.turn")
      return this.#watchers.forEach((each) => void each.turn(message));
    const isCurrent = this.#isCurrent(connection);
    if (message["type"] !== "error") {
      // Only messages about a response show that the server is of use: a greeting does not reset the backoff.
      if (isCurrent && typeof message["stream_id"] === "string") this.#attempt = 0;
    } else if (typeof message["stream_id"] !== "string") {
      if (isAboutRequest(message)) this.#deliveries.receiveError(connection, message, isCurrent);
      return;
    }
    this.#deliveries.receive(connection, message, isCurrent);
  }

  /** Opens another connection, which takes over from this one before it is closed. */
  #replace(connection: Connection): void {
    connection.leaving = true;
    if (this.#isCurrent(connection)) this.#enter({ name: "idle" });
    this.#deliveries.draining(connection);
    this.#pump();
  }

  async #ended(connection: Connection, ending: Ending): Promise<void> {
    const isCurrent = this.#isCurrent(connection);
    if (isCurrent) clearTimeout(this.#renewal);
    if (this.#isClosed()) return;
    if (isCurrent) this.#phase = { name: "preparing" };
    const hasLost = this.#deliveries.lost(connection, ending);
    const { http } = this.#options;
    const expired = ending.code === 1008 && ending.wasReady && http.tokens.renews;
    if (expired) http.tokens.expire();
    if (ending.verdict === "fail" && !expired) return this.#refuse(refusal(ending));
    if (!isCurrent) {
      if (hasLost) this.#hurry();
      this.#publish();
      return this.#pump();
    }
    let { error } = ending;
    if (!ending.wasReady && connection instanceof SocketConnection) {
      const said = await http.probe();
      if (this.#isClosed()) return;
      if (said === "up") this.#blocked++;
      else error = said;
    }
    if (error instanceof AuthenticationError) return this.#refuse(error);
    // A WebSocket is tried again after each connection over HTTP.
    if (!(connection instanceof SocketConnection)) this.#blocked = BLOCKED_AFTER - 1;
    this.#later(ending.verdict === "later" ? 2 : 0, error?.retryAfterMs);
  }

  /**
   * A draining server has closed before there was another: what it carried does not wait for the time that it named, for
   * other replicas may have it already. The drain has counted as an attempt.
   */
  #hurry(): void {
    this.#notBefore = 0;
    if (this.#phase.name !== "waiting") return;
    this.#wait(backoffDelay(Math.max(0, this.#attempt - 1), this.#options.reconnect));
  }

  /** Connects again after a wait: at least as long as the server asks for, and that of attempt number `atLeast`. */
  #later(atLeast = 0, retryAfterMs = 0): void {
    this.#deliveries.giveUp();
    if (!this.#isNeeded()) return this.#enter({ name: "idle" });
    this.#attempt = Math.max(this.#attempt, atLeast);
    this.#wait(retryAfterMs + backoffDelay(this.#attempt++, this.#options.reconnect));
  }

  #wait(delayMs: number): void {
    const timer = setTimeout(() => this.#retryNow(), delayMs);
    this.#enter({ name: "waiting", timer, retryAt: Date.now() + delayMs });
  }

  #retryNow(): void {
    if (this.#phase.name !== "waiting") return;
    this.#enter({ name: "idle" }, false);
    this.#pump();
  }

  /** The page or the machine may have slept, or has a network again. */
  #woken(): void {
    this.#retryNow();
    for (const connection of this.#deliveries.connections()) connection.check();
  }

  #refuse(error: Error): void {
    this.#enter({ name: "failed", error });
    this.#deliveries.failWaiting(error);
  }

  #isCurrent(connection: Connection): boolean {
    return "connection" in this.#phase && this.#phase.connection === connection;
  }

  #isClosed(): boolean {
    return this.#phase.name === "closed";
  }

  #enter(phase: Phase, publishes = true): void {
    if (this.#isClosed()) return;
    if (this.#phase.name === "waiting") clearTimeout(this.#phase.timer);
    this.#phase = phase;
    if (publishes) this.#publish();
  }

  /** Tells the listeners what the phase means to them, if that is news. */
  #publish(): void {
    const next = this.#stateNow();
    const isNews = next.status !== this.#state.status || next.status === "waiting" || next.status === "connecting";
    if (!isNews) return;
    this.#state = next;
    for (const listener of [...this.#listeners]) tell(listener, next);
  }

  #stateNow(): ConnectionState {
    const phase = this.#phase;
    if (phase.name === "closed") return { status: "closed" };
    if (phase.name === "failed") return { status: "failed", error: phase.error };
    if (phase.name === "connected") {
      const transport = phase.connection instanceof SocketConnection ? "websocket" : "sse";
      return { status: "connected", connectionId: phase.connection.id, transport };
    }
    if (this.#deliveries.connections().some((connection) => this.#deliveries.carries(connection))) {
      return { status: "moving" };
    }
    if (phase.name === "waiting") return { status: "waiting", attempt: this.#attempt, retryAt: phase.retryAt };
    return phase.name === "idle" ? { status: "idle" } : { status: "connecting", attempt: this.#attempt };
  }
}

function closed(): Error {
  return new ClientClosedError("The client was closed.");
}

/** Whether an error without a lane can be the answer to a request. */
function isAboutRequest({ status, error }: Message): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return [400, 404, 409, 410, 422].includes(status as number) && code !== "websocket_connection_limit_reached";
}

function refusal(ending: Ending): Error {
  if (ending.error) return ending.error;
  const why = ending.reason || `close code ${ending.code}`;
  if (ending.code === 1008) {
    return new AuthenticationError(403, { type: "error", code: "policy", message: `Refused: ${why}.`, param: null });
  }
  return new ProtocolError(`The server ended the connection for good: ${why}.`);
}
