import type { ReconnectOptions } from "./backoff.ts";
import {
  type ApiError,
  AuthenticationError,
  apiError,
  CaudalError,
  ConnectionError,
  DetachedError,
  isRecord,
} from "./errors.ts";
import type { QueuePosition } from "./events.ts";
import { ResponseHandle } from "./handle.ts";
import { type ConnectionState, Link } from "./link.ts";
import { Run } from "./run.ts";
import type { WebSocketConstructor } from "./socket.ts";
import type { Model, ResponseCreateParams, ResponseObject } from "./types.ts";

export interface CaudalClientOptions {
  /** Where the server is, `https://host` or `http://host:8080`; a path in front of `/v1` is kept. */
  url: string | URL;
  /** A bearer token, or what fetches one: it is asked again for each connection, so it may be short-lived. */
  token?: string | (() => string | Promise<string>);
  /** The WebSocket to use where there is no global one (Node 20): `import { WebSocket } from "ws"`. */
  webSocket?: WebSocketConstructor;
  fetch?: typeof fetch;
  reconnect?: ReconnectOptions;
}

export interface FollowOptions {
  /** Aborting it stops following: the handle ends with `DetachedError` and the generation goes on at the server. */
  signal?: AbortSignal;
  /** Aborting it cancels the generation, like `handle.cancel()`. */
  cancelSignal?: AbortSignal;
  /** Told where the request stands while it waits for a free slot. */
  onQueued?: (position: QueuePosition) => void;
}

export interface ResumeOptions extends FollowOptions {
  /** The last sequence number already seen; left out, everything is replayed. */
  startingAfter?: number;
}

/** A connection to one Caudal server, made when first needed and kept until `close()`. */
export class CaudalClient {
  readonly responses: Responses;
  readonly models: Models;
  readonly #link: Link;

  constructor(options: CaudalClientOptions) {
    const webSocket = options.webSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    if (!webSocket)
      throw new CaudalError("There is no global WebSocket here: pass one as `webSocket`, such as that of `ws`.");
    const http = new Http(options);
    this.#link = new Link({
      socketUrl: http.url("responses", "ws").href,
      webSocket,
      token: () => http.token(),
      probe: () => http.probe(),
      reconnect: { initialDelayMs: 250, maxDelayMs: 15_000, giveUpAfterMs: 120_000, ...options.reconnect },
    });
    this.responses = new Responses(this.#link, http);
    this.models = new Models(http);
  }

  get connectionState(): ConnectionState {
    return this.#link.state;
  }

  /** Calls back at each change; returns what ends that. */
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

export class Responses {
  readonly #link: Link;
  readonly #http: Http;

  /** @internal */
  constructor(link: Link, http: Http) {
    this.#link = link;
    this.#http = http;
  }

  /** Asks for a response. Returns at once; errors come out of the handle. */
  create(params: ResponseCreateParams, options: FollowOptions = {}): ResponseHandle {
    const { client_request_id = newRequestId(), ...rest } = params;
    return this.#follow(Run.create({ ...rest, client_request_id }, options.onQueued), options);
  }

  /** Follows a response that exists: one started before a page reload, in another tab, or by another client. */
  resume(responseId: string, options: ResumeOptions = {}): ResponseHandle {
    return this.#follow(Run.resume(responseId, options.startingAfter, options.onQueued), options);
  }

  /** The response as it is now. */
  retrieve(responseId: string): Promise<ResponseObject> {
    return this.#http.json<ResponseObject>("GET", `responses/${encodeURIComponent(responseId)}`);
  }

  /** Cancels a response that nobody here follows; with a handle, `handle.cancel()` is the way. */
  cancel(responseId: string): Promise<ResponseObject> {
    return this.#http.json<ResponseObject>("POST", `responses/${encodeURIComponent(responseId)}/cancel`);
  }

  #follow(run: Run, { signal, cancelSignal }: FollowOptions): ResponseHandle {
    const handle = new ResponseHandle(run, this.#link);
    this.#link.add(run);
    const detach = (): void => run.fail(new DetachedError("The caller stopped following."));
    const cancel = (): void => void handle.cancel();
    for (const [when, act] of [
      [signal, detach],
      [cancelSignal, cancel],
    ] as const) {
      if (when?.aborted) act();
      else when?.addEventListener("abort", act, { once: true });
    }
    void run.log
      .whenEnded()
      .catch(() => undefined)
      .then(() => {
        signal?.removeEventListener("abort", detach);
        cancelSignal?.removeEventListener("abort", cancel);
      });
    return handle;
  }
}

export class Models {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  async list(): Promise<readonly Model[]> {
    return (await this.#http.json<{ data: Model[] }>("GET", "models")).data;
  }
}

const PROBE_LIMIT_MS = 5_000;

/** The few things that go over HTTP. */
class Http {
  readonly #base: URL;
  readonly #token: CaudalClientOptions["token"];
  readonly #fetch: typeof fetch;

  constructor({ url, token, fetch: given }: CaudalClientOptions) {
    this.#base = new URL(url);
    this.#base.protocol = this.#base.protocol.replace(/^ws/, "http");
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#token = token;
    this.#fetch = given ?? ((...args) => fetch(...args));
  }

  url(path: string, scheme: "http" | "ws"): URL {
    const url = new URL(`v1/${path}`, this.#base);
    if (scheme === "ws") url.protocol = url.protocol.replace(/^http/, "ws");
    return url;
  }

  async token(): Promise<string | undefined> {
    return typeof this.#token === "function" ? this.#token() : this.#token;
  }

  async json<T>(method: "GET" | "POST", path: string): Promise<T> {
    const answer = await this.#ask(method, path).catch((cause: unknown) => {
      throw new ConnectionError("A network error kept the server from being reached.", { cause });
    });
    if (!answer.ok) throw await httpError(answer);
    return (await answer.json()) as T;
  }

  async probe(): Promise<AuthenticationError | undefined> {
    try {
      const answer = await this.#ask("GET", "models", AbortSignal.timeout(PROBE_LIMIT_MS));
      const error = answer.ok ? undefined : await httpError(answer);
      return error instanceof AuthenticationError ? error : undefined;
    } catch {
      return undefined;
    }
  }

  async #ask(method: "GET" | "POST", path: string, signal: AbortSignal | null = null): Promise<Response> {
    const token = await this.token();
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    return this.#fetch(this.url(path, "http"), { method, headers, signal });
  }
}

async function httpError(answer: Response): Promise<ApiError> {
  const body: unknown = await answer.json().catch(() => undefined);
  const seconds = Number(answer.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return apiError(answer.status, isRecord(body) ? body["error"] : undefined, retryAfterMs);
}

/** `crypto.randomUUID` is there in secure contexts only; a chat page on a local network is none. */
function newRequestId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `req_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
