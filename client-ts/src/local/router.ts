/** Decides where a request runs: at the server, or in this browser. */

import type { CaudalClient } from "../client.ts";
import { ConnectionError, RateLimitError, ServerError } from "../errors.ts";
import type { ResponseHandle } from "../handle.ts";
import type { QueuePosition, ResponseCreateParams, Retry } from "../index.ts";
import type { LocalEngine, LocalRunOptions } from "./engine.ts";

/** The time to wait for the place in the queue after a request is queued. */
const PLACE_MS = 500;

/**
 * `auto`: in the browser if the server is unreachable, refuses or has a long queue, or the request is light; otherwise
 * at the server.
 */
export type Policy = "server" | "local" | "auto";

export interface RouterBounds {
  /** The highest accepted place in the server's queue. Default 4. */
  queue: number;
  /** The longest wait for the server's first answer, in milliseconds. Default 4,000. */
  answerMs: number;
  /** The most tokens that prompt and answer of a light request have together. Default 0: no request is light. */
  lightTokens: number;
}

export type RouteReason = "policy" | "offline" | "refused" | "queue" | "light" | "default";

export interface Routed {
  where: "server" | "browser";
  reason: RouteReason;
  response: ResponseHandle;
}

export class Router {
  /** A change applies to later requests. */
  policy: Policy;
  readonly bounds: RouterBounds;
  readonly #client: CaudalClient;
  readonly #local: LocalEngine;

  constructor(options: { client: CaudalClient; local: LocalEngine; policy?: Policy; bounds?: Partial<RouterBounds> }) {
    this.#client = options.client;
    this.#local = options.local;
    this.policy = options.policy ?? "auto";
    this.bounds = { queue: 4, answerMs: 4_000, lightTokens: 0, ...options.bounds };
  }

  /** Resolves when it is decided where the request runs, before its answer begins. */
  async create(params: ResponseCreateParams, options: LocalRunOptions = {}): Promise<Routed> {
    if (this.policy === "local") return this.#inBrowser("policy", params, options);
    if (this.policy === "server") return this.#atServer("policy", params, options);
    if (this.#local.state.status !== "ready") return this.#atServer("default", params, options);
    if (globalThis.navigator?.onLine === false) return this.#inBrowser("offline", params, options);
    if (await this.#isLight(params, options)) return this.#inBrowser("light", params, options);
    return this.#tryServer(params, options);
  }

  #inBrowser(reason: RouteReason, params: ResponseCreateParams, options: LocalRunOptions): Routed {
    return { where: "browser", reason, response: this.#local.create(params, options) };
  }

  #atServer(reason: RouteReason, params: ResponseCreateParams, options: LocalRunOptions): Routed {
    return { where: "server", reason, response: this.#client.responses.create(params, options) };
  }

  /**
   * Sends the request to the server. If the server has no room or cannot be reached, cancels the request there and runs
   * it here.
   */
  async #tryServer(params: ResponseCreateParams, options: LocalRunOptions): Promise<Routed> {
    let decide: (reason: RouteReason) => void = () => {};
    const verdict = new Promise<RouteReason>((resolve) => {
      decide = resolve;
    });
    const timer = setTimeout(() => decide("offline"), this.bounds.answerMs);
    const response = this.#client.responses.create(params, {
      ...options,
      onQueued: (position: QueuePosition) => {
        options.onQueued?.(position);
        decide(position.position > this.bounds.queue ? "queue" : "default");
      },
      onRetry: (retry: Retry) => {
        options.onRetry?.(retry);
        decide("refused");
      },
    });
    const onType = (type: string): void => {
      if (type === "response.created") return;
      // The place in the queue comes at once, or never: server-sent events do not have it.
      if (type === "response.queued") setTimeout(decide, PLACE_MS, "default");
      else decide("default");
    };
    void firstEvents(response, onType).catch((error: unknown) => decide(reasonOf(error)));
    const reason = await verdict;
    clearTimeout(timer);
    if (reason === "default") return { where: "server", reason, response };
    const replaces = response.responseId;
    void response.cancel();
    return this.#inBrowser(reason, params, { ...options, ...(replaces !== undefined && { replaces }) });
  }

  async #isLight(params: ResponseCreateParams, options: LocalRunOptions): Promise<boolean> {
    const { lightTokens } = this.bounds;
    const room = lightTokens - (params.max_output_tokens ?? Number.POSITIVE_INFINITY);
    return room > 0 && (await this.#local.countTokens(params, options).catch(() => room + 1)) <= room;
  }
}

/** Calls `onType` with the type of each event until the answer begins. */
async function firstEvents(response: ResponseHandle, onType: (type: string) => void): Promise<void> {
  for await (const { type } of response) {
    onType(type);
    if (type !== "response.created" && type !== "response.queued") return;
  }
}

/**
 * Maps an error of the server to a reason. Any other error is the request's own fault, and the handle rejects with it.
 */
function reasonOf(error: unknown): RouteReason {
  if (error instanceof RateLimitError || error instanceof ServerError) return "refused";
  return error instanceof ConnectionError ? "offline" : "default";
}
