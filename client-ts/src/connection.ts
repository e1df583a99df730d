/**
 * One socket, from the handshake to its close. Owns the handshake's time limit and the heartbeat; knows nothing of
 * responses and never reconnects: it ends once and says how.
 */

import { type ApiError, apiError, isRecord } from "./errors.ts";
import {
  type CloseVerdict,
  closeVerdict,
  SUBPROTOCOL,
  TOKEN_SUBPROTOCOL_PREFIX,
  type WebSocketConstructor,
  type WebSocketLike,
} from "./socket.ts";

export type Message = Record<string, unknown>;

export interface Ending {
  verdict: CloseVerdict;
  code: number;
  reason: string;
  /** Whether the server's greeting had come. */
  wasReady: boolean;
  /** The last error that was about the connection and not about a response. */
  error: ApiError | undefined;
}

export interface ConnectionListener {
  ready(connection: Connection): void;
  message(connection: Connection, message: Message): void;
  draining(connection: Connection, reconnectAfterMs: number): void;
  ended(connection: Connection, ending: Ending): void;
}

const HANDSHAKE_LIMIT_MS = 10_000;
const NO_STATUS = 1006;
/** Client's own close codes are in the reconnect range, so that a proxy's log reads right. */
const CLOSED_BY_CLIENT = 1000;
const DEAD = 4408;
const BAD_MESSAGE = 4400;

export class Connection {
  readonly #socket: WebSocketLike;
  readonly #listener: ConnectionListener;
  #phase: "connecting" | "ready" | "ended" = "connecting";
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heartbeatMs = 0;
  #heardAt = 0;
  #pinged = false;
  #error: ApiError | undefined;
  #id: string | undefined;

  /** Throws what the constructor of the socket throws: a malformed address or token. */
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
    // An error is always followed by a close, which says more.
    socket.addEventListener("error", () => undefined);
  }

  get ready(): boolean {
    return this.#phase === "ready";
  }

  /** The server's name for this connection, once it has greeted. */
  get id(): string | undefined {
    return this.#id;
  }

  send(message: Message): void {
    if (this.#phase === "ready") this.#socket.send(JSON.stringify(message));
  }

  close(): void {
    this.#finish(CLOSED_BY_CLIENT, "closed by the client", CLOSED_BY_CLIENT);
  }

  /** Gives the connection up because what it carries cannot be trusted any more. */
  abandon(reason: string): void {
    this.#finish(NO_STATUS, reason, BAD_MESSAGE);
  }

  #receive(data: unknown): void {
    if (this.#phase === "ended") return;
    this.#heardAt = Date.now();
    this.#pinged = false;
    const message = parse(data);
    if (!message) return this.abandon("the server sent something that is not a JSON object");
    switch (message["type"]) {
      case "caudal:session.created":
        return this.#greet(message);
      case "caudal:ping":
        return this.send({ type: "caudal:pong" });
      case "caudal:pong":
        return;
      case "caudal:server.draining":
        return this.#listener.draining(this, numberOr(message["reconnect_after_ms"], 0));
      case "error":
        if (typeof message["stream_id"] !== "string") {
          this.#error = apiError(numberOr(message["status"], 500), message["error"], message["retry_after_ms"]);
          return;
        }
    }
    this.#listener.message(this, message);
  }

  #greet(message: Message): void {
    if (this.#phase !== "connecting") return;
    this.#phase = "ready";
    this.#id = typeof message["connection_id"] === "string" ? message["connection_id"] : undefined;
    clearTimeout(this.#timer);
    this.#heartbeatMs = numberOr(message["heartbeat_ms"], 0);
    if (this.#heartbeatMs > 0) this.#timer = setTimeout(() => this.#beat(), this.#heartbeatMs);
    this.#listener.ready(this);
  }

  /** Nothing heard for a heartbeat: ask. Nothing heard for another: the peer is gone, whatever TCP believes. */
  #beat(): void {
    const silence = Date.now() - this.#heardAt;
    let wait = this.#heartbeatMs - silence;
    if (wait <= 0) {
      if (this.#pinged) return this.#finish(NO_STATUS, "no answer to a ping", DEAD);
      this.#pinged = true;
      this.send({ type: "caudal:ping" });
      wait = this.#heartbeatMs;
    }
    this.#timer = setTimeout(() => this.#beat(), wait);
  }

  #finish(code: number, reason: string, closeWith?: number): void {
    if (this.#phase === "ended") return;
    const wasReady = this.#phase === "ready";
    this.#phase = "ended";
    clearTimeout(this.#timer);
    if (closeWith !== undefined) this.#socket.close(closeWith, reason);
    this.#listener.ended(this, { verdict: closeVerdict(code), code, reason, wasReady, error: this.#error });
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

export function numberOr(value: unknown, fallback: number): number {
  return typeof value === "number" ? value : fallback;
}
