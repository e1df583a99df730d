import type { Http } from "./http.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";
import type { PromptCreateParams, StoredPrompt } from "./wire.ts";

export type { PromptCreateParams, StoredPrompt };

/** Prompts that the server stores, in versions. */
export class Prompts {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  /** Stores a prompt, or the next version of an existing one. */
  create(params: PromptCreateParams): Promise<StoredPrompt> {
    return this.#http.post(["prompts"], params);
  }

  /** Fetches the latest version, or the one that `query` names. */
  retrieve(id: string, query: { version?: string } = {}): Promise<StoredPrompt> {
    return this.#http.get(["prompts", id], query);
  }

  /** Fetches one page of prompts, each in its latest version. */
  list(query: PageQuery = {}): Promise<Page<StoredPrompt>> {
    return this.#http.get(["prompts"], query);
  }

  all(query: PageQuery = {}): AsyncGenerator<StoredPrompt, void, undefined> {
    return everyOne((page) => this.list(page), query);
  }

  /** Deletes all versions of a prompt. */
  async delete(id: string): Promise<void> {
    await this.#http.delete(["prompts", id]);
  }
}
