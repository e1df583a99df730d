import { DetachedError } from "./errors.ts";
import { ResponseHandle } from "./handle.ts";
import type { Http } from "./http.ts";
import { lazy } from "./lazy.ts";
import type { Link } from "./link.ts";
import { type ResumeTarget, Run, type RunNews, requestId } from "./run.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";
import type { Compaction, InputTokens } from "./wire.ts";

export interface FollowOptions extends RunNews {
  /** Aborting it stops following: the handle ends with `DetachedError` and the generation goes on at the server. */
  signal?: AbortSignal;
  /** Aborting it cancels the generation, like `handle.cancel()`. */
  cancelSignal?: AbortSignal;
}

export interface ResumeOptions extends FollowOptions {
  /** The last sequence number already seen; left out, everything is replayed. */
  startingAfter?: number;
}

/** Responses: asking for one, following one, and what the server keeps of one. */
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
    return this.#follow(Run.create(params, options), options);
  }

  /**
   * Follows a response that exists: one started before a page reload, in another tab, or by another client. With
   * `{ conversation }` whatever is being said there.
   */
  resume(target: ResumeTarget, options: ResumeOptions = {}): ResponseHandle {
    return this.#follow(Run.resume(target, options.startingAfter, options), options);
  }

  /** The response as it is now. */
  retrieve(responseId: string): Promise<ResponseObject> {
    return this.#http.get(["responses", responseId]);
  }

  /**
   * Asks for another response to the same input with the same settings, except `changes`. For a turn of a conversation use
   * `conversations.regenerate`.
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
   * Starts a response that goes on to its end whether anybody follows or not, and returns it as it was queued. `resume` and
   * `retrieve` have the rest.
   */
  background(params: ResponseCreateParams): Promise<ResponseObject> {
    return this.#http.post(["responses"], params, requestId(params), { background: true });
  }

  /** Has the model sum up the input and what goes before it, as an item that a later `input` can begin with. */
  compact(params: ResponseCreateParams): Promise<Compaction> {
    return this.#http.post(["responses", "compact"], params);
  }

  /** Counts the tokens of the prompt of such a request, also of a prompt that does not fit. */
  async countTokens(params: ResponseCreateParams): Promise<number> {
    return (await this.#http.post<InputTokens>(["responses", "input_tokens"], params)).input_tokens;
  }

  /** Cancels a response that nobody here follows; with a handle, `handle.cancel()` is the way. */
  cancel(responseId: string): Promise<ResponseObject> {
    return this.#http.post(["responses", responseId, "cancel"]);
  }

  /** Cancels it if it runs, and deletes everything of it. */
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

/** Calls back when the signal is aborted, or at once if it is already, until the other signal is aborted. */
function onAbort(signal: AbortSignal | undefined, until: AbortSignal, listener: () => void): void {
  if (signal?.aborted) listener();
  else signal?.addEventListener("abort", listener, { signal: until });
}
