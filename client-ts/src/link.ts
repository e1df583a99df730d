/**
 * Owns the client's connections. Opens a connection when one is needed, reconnects after a loss, and decides when to
 * give up. If a server drains or a token expires, opens the next connection before the old one closes.
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
import { notify } from "./notify.ts";
import type { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";
import { SocketConnection } from "./socket-connection.ts";
import { after, type Timer } from "./timer.ts";
import { onWake } from "./wake.ts";

export type ConnectionState =
  | { status: "idle" }
  | { status: "connecting"; attempt: number }
  | { status: "connected"; connectionId: string | undefined; transport: "websocket" | "sse" }
  /**
   * The server drains or the token expires. Running responses go on over the old connection until a new one carries
   * them.
   */
  | { status: "moving" }
  /** There is no connection; the next attempt is at `retryAt` (as `Date.now()` counts). */
  | { status: "waiting"; attempt: number; retryAt: number }
  /** The server refuses this client; the next request tries again. */
  | { status: "failed"; error: Error }
  | { status: "closed" };

export interface LinkOptions extends DeliveryOptions {
  /** `undefined` if there is none: then everything goes over HTTP. */
  webSocket: WebSocketConstructor | undefined;
  http: Http;
}

/** The callbacks of a caller that follows the turns of a conversation. */
export interface Watcher {
  /** Called for each new connection, on which the server does not know yet which conversation the watcher follows. */
  connected(): void;
  /** Handles a `caudal:conversation.turn`. */
  turn(message: Message): void;
  /** Called when the link opens no further connection: the client was closed, or the server refuses it. */
  ended(refusal?: Error): void;
}

const MOVING: ConnectionState = { status: "moving" };

/** After this many failed handshakes in a row while HTTP works, WebSockets are considered blocked. */
const BLOCKED_AFTER = 2;

export class Link {
  readonly deliveries: Deliveries;
  readonly #options: LinkOptions;
  /** The newest connection, and those that it replaces. */
  readonly #connections = new Set<Connection>();
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #watchers = new Set<Watcher>();
  readonly #stopWaking: () => void;
  /** The state of the connection for new requests: any except "moving". */
  #phase: ConnectionState = { status: "idle" };
  /** The state that the listeners received last. */
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
  /** The server asked for no new connection before this time. */
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

  /** Adds a watcher and stays connected until the returned function removes the watcher. */
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

  /** Sends waiting runs over the current connection, or opens a connection if one is needed. */
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
    // If the token cannot be fetched, most often the network is lost, so the client tries again later.
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
      this.#refuse(new ConnectionError("A WebSocket does not accept the address or the token.", { cause }));
    }
  }

  #socket(webSocket: WebSocketConstructor, token: string | undefined): Connection {
    const url = this.#options.http.url(["responses"]);
    url.protocol = url.protocol.replace("http", "ws");
    return new SocketConnection(url.href, token, webSocket, this.#listener());
  }

  /** Opens a connection over server-sent events. Its code is loaded at the first use. */
  async #sse(): Promise<Connection> {
    const { SseConnection } = await lazy(() => import("./sse.ts"));
    return new SseConnection(this.#options.http, this.#listener());
  }

  #listener(): ConnectionListener {
    return {
      ready: (connection) => this.#ready(connection),
      message: (connection, message) => this.#receive(connection, message),
      draining: (connection, afterMs) => {
        // The server notifies all of its clients at once. The jitter spreads their new connections.
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
      // Only a message about a response shows that the server works, so the greeting does not reset the backoff.
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
    // After each connection over HTTP the client tries a WebSocket again.
    if (!(connection instanceof SocketConnection)) this.#blocked = BLOCKED_AFTER - 1;
    this.#later(ending.code === TRY_LATER ? 2 : 0, error?.retryAfterMs);
  }

  /**
   * Reconnects earlier than a draining server asked for: the server closed while it still carried runs, and other
   * replicas may carry them already. The drain has counted as an attempt.
   */
  #hurry(): void {
    this.#notBefore = 0;
    if (this.#phase.status !== "waiting") return;
    this.#wait(backoffDelay(Math.max(0, this.#attempt - 1), this.#options.reconnect));
  }

  /**
   * Connects again after the server's `retryAfterMs` and the backoff of the next attempt, which counts as number
   * `atLeast` or more.
   */
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

  /** Called when the page or the machine may have slept, or the network is back. */
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

  /** Calls the listeners if the state that they see has changed. */
  #publish(): void {
    const isUnderWay = ["idle", "connecting", "waiting"].includes(this.#phase.status);
    const state = isUnderWay && this.deliveries.carries ? MOVING : this.#phase;
    if (state === this.#state) return;
    this.#state = state;
    for (const listener of [...this.#listeners]) notify(listener, state);
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
