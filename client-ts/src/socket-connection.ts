/** A connection over one WebSocket: owns the handshake's time limit and the heartbeat. */

import { type Connection, type ConnectionListener, type Limits, NO_LIMITS, NO_STATUS } from "./connection.ts";
import { encode, type Message } from "./encode.ts";
import { type ApiError, errorIn, fieldsOf, isRecord, numberOr, textOr } from "./errors.ts";
import { SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX, type WebSocketConstructor, type WebSocketLike } from "./socket.ts";

const HANDSHAKE_LIMIT_MS = 10_000;
/** The time limit for the answer to a ping after a sleep. */
const CHECK_LIMIT_MS = 1_000;
/** If a timer fires this much too late, the page has slept: a frozen tab, a closed lid, a stopped process. */
const LATE_MS = 1_500;
/** The interval at which the client checks for a sleep. */
const TICK_MS = 5_000;
/**
 * The client's own close codes. Those of a fault are in the reconnect range, so a proxy's log shows that the client
 * comes back.
 */
const CLOSED_BY_CLIENT = 1000;
const DEAD = 4408;
const BAD_MESSAGE = 4400;

export class SocketConnection implements Connection {
  id: string | undefined;
  limits: Limits = NO_LIMITS;
  leaving = false;
  readonly #socket: WebSocketLike;
  readonly #listener: ConnectionListener;
  #phase: "connecting" | "ready" | "ended" = "connecting";
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heartbeatMs = Number.POSITIVE_INFINITY;
  #heardAt = 0;
  /** When the peer is considered dead, unless a message comes before. */
  #deadAt: number | undefined;
  #error: ApiError | undefined;

  /** Throws the error of the socket's constructor if the address or the token is malformed. */
  constructor(url: string, token: string | undefined, webSocket: WebSocketConstructor, listener: ConnectionListener) {
    this.#listener = listener;
    const protocols = token === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX + token];
    const socket = new webSocket(url, protocols);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#finish(NO_STATUS, "no handshake in time", DEAD), HANDSHAKE_LIMIT_MS);
    socket.addEventListener("open", () => {
      if (socket.protocol !== SUBPROTOCOL) {
        this.#finish(4500, `the server does not speak ${SUBPROTOCOL}`, BAD_MESSAGE);
      }
    });
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("close", ({ code, reason }) => this.#finish(code, reason));
    // A close event with more detail follows every error event.
    socket.addEventListener("error", () => undefined);
  }

  send(text: string): void {
    if (this.#phase === "ready") this.#socket.send(text);
  }

  check(): void {
    if (this.#phase === "ready") this.#ping(CHECK_LIMIT_MS);
  }

  close(): void {
    this.#finish(CLOSED_BY_CLIENT, "closed by the client", CLOSED_BY_CLIENT);
  }

  abandon(reason: string): void {
    this.#finish(NO_STATUS, reason, BAD_MESSAGE);
  }

  #receive(data: unknown): void {
    if (this.#phase === "ended") return;
    this.#heardAt = Date.now();
    this.#deadAt = undefined;
    const message = parse(data);
    if (!message) return this.abandon("the server sent something that is not a JSON object");
    switch (message["type"]) {
      case "caudal:session.created":
        return this.#greet(message);
      case "caudal:ping":
        return this.send(encode({ type: "caudal:pong" }));
      case "caudal:pong":
        return;
      case "caudal:server.draining":
        return this.#listener.draining(this, numberOr(message["reconnect_after_ms"], 0));
      case "error":
        if (typeof message["stream_id"] !== "string") {
          this.#error = errorIn(message);
        }
    }
    this.#listener.message(this, message);
  }

  #greet(message: Message): void {
    if (this.#phase !== "connecting") return;
    this.#phase = "ready";
    this.id = textOr(message["connection_id"], undefined);
    const limits = fieldsOf(message["limits"]);
    this.limits = {
      lanes: Math.max(1, numberOr(limits["max_in_flight"], NO_LIMITS.lanes)),
      messageBytes: numberOr(limits["max_message_bytes"], NO_LIMITS.messageBytes),
    };
    clearTimeout(this.#timer);
    const heartbeatMs = numberOr(message["heartbeat_ms"], 0);
    if (heartbeatMs > 0) {
      this.#heartbeatMs = heartbeatMs;
      this.#tick();
    }
    this.#listener.ready(this);
  }

  /**
   * Sends a ping after a heartbeat interval of silence. Ends the connection if the last ping was not answered in time.
   */
  #tick(): void {
    const now = Date.now();
    if (this.#deadAt !== undefined && now >= this.#deadAt) return this.#finish(NO_STATUS, "no answer to a ping", DEAD);
    const silentAt = this.#heardAt + this.#heartbeatMs;
    if (this.#deadAt === undefined && now >= silentAt) this.#ping(this.#heartbeatMs);
    else this.#schedule((this.#deadAt ?? silentAt) - now);
  }

  #ping(limitMs: number): void {
    this.send(encode({ type: "caudal:ping" }));
    this.#deadAt = Math.min(this.#deadAt ?? Number.POSITIVE_INFINITY, Date.now() + limitMs);
    this.#schedule(this.#deadAt - Date.now());
  }

  #schedule(delayMs: number): void {
    clearTimeout(this.#timer);
    const waitMs = Math.min(delayMs, TICK_MS);
    const dueAt = Date.now() + waitMs;
    this.#timer = setTimeout(() => {
      if (Date.now() - dueAt > LATE_MS) this.#ping(CHECK_LIMIT_MS);
      else this.#tick();
    }, waitMs);
  }

  #finish(code: number, reason: string, closeWith?: number): void {
    if (this.#phase === "ended") return;
    const wasReady = this.#phase === "ready";
    this.#phase = "ended";
    clearTimeout(this.#timer);
    if (closeWith !== undefined) this.#socket.close(closeWith, reason);
    this.#listener.ended(this, { code, reason, wasReady, error: this.#error });
  }
}

function parse(data: unknown): Message | undefined {
  if (typeof data !== "string") return undefined;
  try {
    const value: unknown = JSON.parse(data);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
