/**
 * Decides when to connect, how, and when to give up. Opens a connection when there is a use for it; after a loss waits and
 * connects again; replaces a connection whose server drains or whose token ends before the old one is closed.
 */

import { backoffDelay } from "./backoff.ts";
import { type Connection, type ConnectionListener, type Ending, isFinal, REFUSED, TRY_LATER } from "./connection.ts";
import { Deliveries, type DeliveryOptions } from "./deliveries.ts";
import type { Message } from "./encode.ts";
import {
  AuthenticationError,
  apiError,
  ClientClosedError,
  ConnectionError,
  fieldsOf,
  ProtocolError,
  QueueFullError,
} from "./errors.ts";
import type { Http } from "./http.ts";
import { lazy } from "./lazy.ts";
import type { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";
import { SocketConnection } from "./socket-connection.ts";
import { tell } from "./tell.ts";
import { after, type Timer } from "./timer.ts";
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
  /** The link opens no connection any more: the client was closed, or the server refuses it. */
  ended(refusal?: Error): void;
}

const MOVING: ConnectionState = { status: "moving" };

/** Handshakes in a row that failed though HTTP works, before WebSockets are taken to be blocked. */
const BLOCKED_AFTER = 2;

export class Link {
  readonly deliveries: Deliveries;
  readonly #options: LinkOptions;
  /** The newest, and those that leave. */
  readonly #connections = new Set<Connection>();
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #watchers = new Set<Watcher>();
  readonly #stopWaking: () => void;
  /** The state of the connection for new requests: any except "moving". */
  #phase: ConnectionState = { status: "idle" };
  /** The state that listeners were told last. */
  #state: ConnectionState = this.#phase;
  /** The connection for new requests, while there is one. */
  #current: Connection | undefined;
  #keepConnected = false;
  #attempt = 0;
  #blocked = 0;
  /** Fires at the next attempt, or when the first of the waiting runs is due. */
  #timer: Timer | undefined;
  /** Fires before the token of the connection expires. */
  #renewal: Timer | undefined;
  /** The server's word on when to come back. */
  #notBefore = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.deliveries = new Deliveries(options, () => this.#pump());
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
    if (!this.deliveries.add(run)) return run.fail(new QueueFullError("Too many requests wait for a connection."));
    this.#pump();
  }

  /** Stays connected for it until the returned function is called. */
  watch(watcher: Watcher): () => void {
    if (this.#isClosed()) watcher.ended();
    else this.#watchers.add(watcher);
    if (this.#current) watcher.connected();
    else this.#pump();
    return () => this.#watchers.delete(watcher);
  }

  close(): void {
    if (this.#isClosed()) return;
    this.#stopWaking();
    this.#enter({ status: "closed" });
    for (const connection of this.#connections) connection.close();
    this.deliveries.failWaiting(closed());
    this.#dismiss();
  }

  /** Moves everything on as far as it goes: runs to free lanes, or else a connection on its way. */
  #pump(): void {
    const { status } = this.#phase;
    if (this.#current) {
      const dueAt = this.deliveries.assign(this.#current);
      clearTimeout(this.#timer);
      if (dueAt !== undefined) this.#timer = after(dueAt - Date.now(), () => this.#pump());
    } else if ((status === "idle" || status === "failed") && this.#isNeeded()) {
      void this.#open();
    } else this.#publish();
  }

  /** Whether anything has a use for a connection. */
  #isNeeded(): boolean {
    return this.#keepConnected || this.#watchers.size > 0 || this.deliveries.needs;
  }

  async #open(): Promise<void> {
    const early = this.#notBefore - Date.now();
    if (early > 0) return this.#wait(early);
    this.#enter({ status: "connecting", attempt: this.#attempt });
    // A token that cannot be fetched is most often one more sign of the lost network.
    const token = await this.#options.http.tokens.get().catch(() => null);
    if (this.#isClosed()) return;
    if (token === null) return this.#later();
    const { webSocket } = this.#options;
    try {
      const connection =
        webSocket && this.#blocked < BLOCKED_AFTER ? this.#socket(webSocket, token) : await this.#sse();
      if (this.#isClosed()) return connection.close();
      this.#connections.add(connection);
    } catch (cause) {
      if (cause instanceof ConnectionError) return this.#later();
      this.#refuse(new ConnectionError("The address or the token is not one that a WebSocket takes.", { cause }));
    }
  }

  #socket(webSocket: WebSocketConstructor, token: string | undefined): Connection {
    const url = this.#options.http.url(["responses"]);
    url.protocol = url.protocol.replace("http", "ws");
    return new SocketConnection(url.href, token, webSocket, this.#listener());
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
    const isSocket = connection instanceof SocketConnection;
    if (isSocket) this.#blocked = 0;
    const transport = isSocket ? "websocket" : "sse";
    this.#enter({ status: "connected", connectionId: connection.id, transport }, connection);
    const { renewAt } = this.#options.http.tokens;
    if (renewAt !== undefined) this.#renewal = after(renewAt - Date.now(), () => this.#replace(connection));
    this.#pump();
    for (const watcher of [...this.#watchers]) watcher.connected();
  }

  #receive(connection: Connection, message: Message): void {
    if (message["type"] === "caudal:conversation.turn")
      return this.#watchers.forEach((each) => void each.turn(message));
    if (message["type"] !== "error") {
      // Only messages about a response show that the server is of use: a greeting does not reset the backoff.
      if (!connection.leaving && typeof message["stream_id"] === "string") this.#attempt = 0;
    } else if (typeof message["stream_id"] !== "string") {
      if (isAboutRequest(message)) this.deliveries.receiveError(connection, message);
      return;
    }
    this.deliveries.receive(connection, message);
  }

  /** Opens another connection, which takes over from this one before it is closed. */
  #replace(connection: Connection): void {
    if (!connection.leaving) this.#enter({ status: "idle" });
    connection.leaving = true;
    this.deliveries.draining(connection);
    this.#pump();
  }

  async #ended(connection: Connection, ending: Ending): Promise<void> {
    this.#connections.delete(connection);
    const hasLost = this.deliveries.lost(connection, ending);
    if (this.#isClosed()) return;
    if (connection.leaving) {
      if (hasLost) this.#hurry();
      return this.#pump();
    }
    const { http } = this.#options;
    const expired = ending.code === REFUSED && ending.wasReady && http.tokens.renews;
    if (expired) http.tokens.expire();
    if (isFinal(ending.code) && !expired) return this.#refuse(refusal(ending));
    let error = expired ? undefined : ending.error;
    if (!ending.wasReady && connection instanceof SocketConnection) {
      const said = await http.probe();
      if (this.#isClosed()) return;
      if (said === "up") this.#blocked++;
      else error = said;
    }
    if (error instanceof AuthenticationError) return this.#refuse(error);
    // A WebSocket is tried again after each connection over HTTP.
    if (!(connection instanceof SocketConnection)) this.#blocked = BLOCKED_AFTER - 1;
    this.#later(ending.code === TRY_LATER ? 2 : 0, error?.retryAfterMs);
  }

  /**
   * A draining server has closed before there was another: what it carried does not wait for the time that it named, for
   * other replicas may have it already. The drain has counted as an attempt.
   */
  #hurry(): void {
    this.#notBefore = 0;
    if (this.#phase.status !== "waiting") return;
    this.#wait(backoffDelay(Math.max(0, this.#attempt - 1), this.#options.reconnect));
  }

  /** Connects again after a wait: at least as long as the server asks for, and that of attempt number `atLeast`. */
  #later(atLeast = 0, retryAfterMs = 0): void {
    this.deliveries.giveUp();
    if (!this.#isNeeded()) return this.#enter({ status: "idle" });
    this.#attempt = Math.max(this.#attempt, atLeast);
    this.#wait(retryAfterMs + backoffDelay(this.#attempt++, this.#options.reconnect));
  }

  #wait(delayMs: number): void {
    this.#enter({ status: "waiting", attempt: this.#attempt, retryAt: Date.now() + delayMs });
    this.#timer = after(delayMs, () => this.#retryNow());
  }

  #retryNow(): void {
    if (this.#phase.status !== "waiting") return;
    if (this.#isNeeded()) void this.#open();
    else this.#enter({ status: "idle" });
  }

  /** The page or the machine may have slept, or has a network again. */
  #woken(): void {
    this.#retryNow();
    for (const connection of this.#connections) connection.check();
  }

  #refuse(error: Error): void {
    this.#enter({ status: "failed", error });
    this.deliveries.failWaiting(error);
    this.#dismiss(error);
  }

  #dismiss(refusal?: Error): void {
    for (const watcher of this.#watchers) watcher.ended(refusal);
    this.#watchers.clear();
  }

  #isClosed(): boolean {
    return this.#phase.status === "closed";
  }

  #enter(phase: ConnectionState, current?: Connection): void {
    if (this.#isClosed()) return;
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    this.#phase = phase;
    this.#current = current;
    this.#publish();
  }

  /** Tells the listeners what the phase means to them, if that is news. */
  #publish(): void {
    const isUnderWay = ["idle", "connecting", "waiting"].includes(this.#phase.status);
    const state = isUnderWay && this.deliveries.carries ? MOVING : this.#phase;
    if (state === this.#state) return;
    this.#state = state;
    for (const listener of [...this.#listeners]) tell(listener, state);
  }
}

function closed(): Error {
  return new ClientClosedError("The client was closed.");
}

/** Whether an error without a lane can be the answer to a request. */
function isAboutRequest({ status, error }: Message): boolean {
  const isConnections = fieldsOf(error)["code"] === "websocket_connection_limit_reached";
  return [400, 404, 409, 410, 422].includes(status as number) && !isConnections;
}

function refusal(ending: Ending): Error {
  if (ending.error) return ending.error;
  const why = ending.reason || `close code ${ending.code}`;
  if (ending.code === REFUSED) return apiError(403, { code: "policy", message: `Refused: ${why}.` });
  return new ProtocolError(`The server ended the connection for good: ${why}.`);
}
