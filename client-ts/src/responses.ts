import { DetachedError } from "./errors.ts";
import { ResponseHandle } from "./handle.ts";
import type { Http } from "./http.ts";
import { lazy } from "./lazy.ts";
import type { Link } from "./link.ts";
import { type ResumeTarget, Run, type RunNews, requestId } from "./run.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";
import type { Compaction, InputTokens } from "./wire.ts";

export interface FollowOptions extends RunNews {
  /**
   * Aborting this signal stops following: the handle fails with `DetachedError`, and the generation goes on at the
   * server.
   */
  signal?: AbortSignal;
  /** Aborting this signal cancels the generation, as `handle.cancel()` does. */
  cancelSignal?: AbortSignal;
}

export interface ResumeOptions extends FollowOptions {
  /** The last sequence number already seen. Without it every event is replayed. */
  startingAfter?: number;
}

/** Creates, follows, fetches and deletes responses. */
export class Responses {
  readonly #link: Link;
  readonly #http: Http;

  /** @internal */
  constructor(link: Link, http: Http) {
    this.#link = link;
    this.#http = http;
  }

  /** Creates a response. Returns at once; the handle reports errors. */
  create(params: ResponseCreateParams, options: FollowOptions = {}): ResponseHandle {
    return this.#follow(Run.create(params, options), options);
  }

  /**
   * Follows an existing response: one that was created before a page reload, in another tab, or by another client. With
   * `{ conversation }`, follows the running turn of that conversation, or else the latest.
   */
  resume(target: ResumeTarget, options: ResumeOptions = {}): ResponseHandle {
    return this.#follow(Run.resume(target, options.startingAfter, options), options);
  }

  /** Fetches the response as it is now. */
  retrieve(responseId: string): Promise<ResponseObject> {
    return this.#http.get(["responses", responseId]);
  }

  /**
   * Creates another response to the same input with the same settings, except `changes`. For a turn of a conversation
   * use `conversations.regenerate`.
   */
  async regenerate(
    responseId: string,
    changes: ResponseCreateParams = {},
    options: FollowOptions = {},
  ): Promise<ResponseHandle> {
    const { requestOf } = await lazy(() => import("./branches.ts"));
    return this.create({ ...(await requestOf(this.#http, responseId)), ...changes }, options);
  }

  /**
   * Creates a response that runs to its end even if no client follows it, and resolves to the queued response. Follow
   * it with `resume`, or fetch it later with `retrieve`.
   */
  background(params: ResponseCreateParams): Promise<ResponseObject> {
    return this.#http.post(["responses"], params, requestId(params), { background: true });
  }

  /**
   * Lets the model summarise the input and the conversation before it. The result's `output` can be the beginning of a
   * later `input`.
   */
  compact(params: ResponseCreateParams): Promise<Compaction> {
    return this.#http.post(["responses", "compact"], params);
  }

  /** Counts the tokens of a request's prompt, even if the prompt does not fit the context. */
  async countTokens(params: ResponseCreateParams): Promise<number> {
    return (await this.#http.post<InputTokens>(["responses", "input_tokens"], params)).input_tokens;
  }

  /** Cancels a response by its id. With a handle, use `handle.cancel()`. */
  cancel(responseId: string): Promise<ResponseObject> {
    return this.#http.post(["responses", responseId, "cancel"]);
  }

  /** Deletes a response and its events; cancels it first if it runs. */
  async delete(responseId: string): Promise<void> {
    await this.#http.delete(["responses", responseId]);
  }

  #follow(run: Run, { signal, cancelSignal }: FollowOptions): ResponseHandle {
    const handle = new ResponseHandle(run, this.#link.deliveries);
    run.refill = (after) => this.#link.add(run.continuation(after));
    this.#link.add(run);
    const ended = new AbortController();
    const forget = (): void => ended.abort();
    run.whenEnded().then(forget, forget);
    onAbort(signal, ended.signal, () => run.fail(new DetachedError("The caller stopped following.")));
    onAbort(cancelSignal, ended.signal, () => void handle.cancel());
    return handle;
  }
}

/** Calls `listener` when `signal` is aborted, or at once if it already is. Stops listening when `until` is aborted. */
function onAbort(signal: AbortSignal | undefined, until: AbortSignal, listener: () => void): void {
  if (signal?.aborted) listener();
  else signal?.addEventListener("abort", listener, { signal: until });
}
