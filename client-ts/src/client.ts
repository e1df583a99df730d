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
  /** Address of the server, `https://host` or `http://host:8080`; a path in front of `/v1` is kept. */
  url: string | URL;
  /**
   * A bearer token, or a function that fetches one for each connection. A function may give a client secret as
   * `POST /v1/client_secrets` answers it: the next secret is then fetched before that one ends, and the connection is
   * replaced without a pause.
   */
  token?: TokenSource;
  /**
   * The WebSocket to use where there is no global one (Node 20): `import { WebSocket } from "ws"`. Without any, and where a
   * network lets none pass, responses come over HTTP and server-sent events.
   */
  webSocket?: WebSocketConstructor;
  fetch?: typeof fetch;
  reconnect?: ReconnectOptions;
  /**
   * How often a request is sent again that the server has no room for (429 or 503 with a time to come back, which is
   * before `reconnect.giveUpAfterMs`). It is the same request each time, so it cannot run twice. Default 4; 0 never does.
   */
  maxRetries?: number;
  /** Requests that may wait for a connection; one more ends with `QueueFullError`. Default 1,000. */
  maxWaiting?: number;
}

/** A connection to one Caudal server, made when first needed and kept until `close()`. */
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

  /** Calls back at each change. The returned function ends that. */
  onConnectionStateChange(listener: (state: ConnectionState) => void): () => void {
    return this.#link.onStateChange(listener);
  }

  /** Connects now and stays connected, also while there is nothing to do. Ends a wait between two attempts. */
  connect(): void {
    this.#link.connect();
  }

  /** Closes the connection. Handles that still follow end with `ClientClosedError`; their generations go on. */
  close(): void {
    this.#link.close();
  }
}
