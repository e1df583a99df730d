import { DetachedError } from "./errors.ts";
import { ResponseHandle } from "./handle.ts";
import type { Http } from "./http.ts";
import type { Link } from "./link.ts";
import { type ResumeTarget, Run, type RunNews } from "./run.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";

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
    return this.#follow(Run.create({ ...rest, client_request_id }, options), options);
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
    return this.#http.get(`responses/${encodeURIComponent(responseId)}`);
  }

  /** Cancels a response that nobody here follows; with a handle, `handle.cancel()` is the way. */
  cancel(responseId: string): Promise<ResponseObject> {
    return this.#http.post(`responses/${encodeURIComponent(responseId)}/cancel`);
  }

  /** Cancels it if it runs, and deletes everything of it. */
  async delete(responseId: string): Promise<void> {
    await this.#http.delete(`responses/${encodeURIComponent(responseId)}`);
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

/** `crypto.randomUUID` is there in secure contexts only; a chat page on a local network is none. */
function newRequestId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `req_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
