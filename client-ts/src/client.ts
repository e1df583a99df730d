import type { ReconnectOptions } from "./backoff.ts";
import { Conversations } from "./conversations.ts";
import { Http } from "./http.ts";
import { type ConnectionState, Link } from "./link.ts";
import { Models } from "./models.ts";
import { Prompts } from "./prompts.ts";
import { Responses } from "./responses.ts";
import type { WebSocketConstructor } from "./socket.ts";
import { type TokenSource, Tokens } from "./tokens.ts";

export interface CaudalClientOptions {
  /** The address of the server: `https://host` or `http://host:8080`, with a path if the server is behind one. */
  url: string | URL;
  /**
   * A bearer token, or a function that fetches one for each connection and each HTTP request. If the function returns a
   * client secret (the answer of `POST /v1/client_secrets`), the client uses the secret until shortly before it
   * expires, then fetches the next one and replaces the connection without a pause.
   */
  token?: TokenSource;
  /**
   * The WebSocket class. Default: the global one; Node 20 has none, so pass `WebSocket` of the package `ws` there.
   * Without a class, or if the network blocks WebSockets, responses come over HTTP and server-sent events.
   */
  webSocket?: WebSocketConstructor;
  fetch?: typeof fetch;
  reconnect?: ReconnectOptions;
  /**
   * The number of times that the client resends a request that the server has no room for: 429 or 503 with a retry time within
   * `reconnect.giveUpAfterMs`. The resent request has the same id, so it cannot run twice. Default 4; 0: never.
   */
  maxRetries?: number;
  /** The number of requests that may wait for a connection; a further one fails with `QueueFullError`. Default 1,000. */
  maxWaiting?: number;
}

/** The client of one Caudal server. Connects when first needed and disconnects at `close()`. */
export class CaudalClient {
  readonly responses: Responses;
  readonly conversations: Conversations;
  readonly models: Models;
  readonly prompts: Prompts;
  readonly #link: Link;

  constructor(options: CaudalClientOptions) {
    const { initialDelayMs = 250, maxDelayMs = 15_000, giveUpAfterMs = 120_000 } = options.reconnect ?? {};
    const http = new Http(options.url, new Tokens(options.token, giveUpAfterMs), options.fetch);
    this.#link = new Link({
      webSocket: options.webSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket,
      http,
      reconnect: { initialDelayMs, maxDelayMs, giveUpAfterMs },
      maxRetries: options.maxRetries ?? 4,
      maxWaiting: options.maxWaiting ?? 1_000,
    });
    this.responses = new Responses(this.#link, http);
    this.conversations = new Conversations(http, this.#link, this.responses);
    this.models = new Models(http);
    this.prompts = new Prompts(http);
  }

  get connectionState(): ConnectionState {
    return this.#link.state;
  }

  /** Calls `listener` at each change of the state. The returned function removes the listener. */
  onConnectionStateChange(listener: (state: ConnectionState) => void): () => void {
    return this.#link.onStateChange(listener);
  }

  /**
   * Connects now and stays connected, even without requests. Ends a wait between two attempts. Throws
   * `ClientClosedError` after `close()`.
   */
  connect(): void {
    this.#link.connect();
  }

  /**
   * Closes the connection. Handles that still follow a response fail with `ClientClosedError`; the generations go on at
   * the server.
   */
  close(): void {
    this.#link.close();
  }
}
