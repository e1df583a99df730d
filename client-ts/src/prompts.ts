import type { Http } from "./http.ts";
import type { InputMessage } from "./items.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";

export interface PromptCreateParams {
  /** The prompt that this is the next version of; a new one without it. */
  id?: string;
  name?: string;
  /** Text with `{{variables}}`. */
  instructions?: string;
  /** What has been said before the request's own input, with `{{variables}}` too. */
  messages?: string | readonly InputMessage[];
  /** The variables, for the server to check that they are those that occur. */
  variables?: readonly string[];
}

/** One version of a stored prompt. A request uses it by `prompt: { id, version, variables }`. */
export interface StoredPrompt {
  id: string;
  object: "prompt";
  version: string;
  created_at: number;
  name: string | null;
  instructions: string | null;
  messages: readonly InputMessage[];
  variables: readonly string[];
}

/** Prompts that the server keeps, in versions. */
export class Prompts {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  /** Stores a prompt, or the next version of one. */
  create(params: PromptCreateParams): Promise<StoredPrompt> {
    return this.#http.post("prompts", params);
  }

  /** The latest version, or the one that is named. */
  retrieve(id: string, query: { version?: string } = {}): Promise<StoredPrompt> {
    return this.#http.get(pathOf(id), { ...query });
  }

  /** One page of prompts, each in its latest version. */
  list(query: PageQuery = {}): Promise<Page<StoredPrompt>> {
    return this.#http.get("prompts", { ...query });
  }

  all(query: PageQuery = {}): AsyncGenerator<StoredPrompt, void, undefined> {
    return everyOne((page) => this.list(page), query);
  }

  /** Deletes it in all its versions. */
  async delete(id: string): Promise<void> {
    await this.#http.delete(pathOf(id));
  }
}

function pathOf(id: string): string {
  return `prompts/${encodeURIComponent(id)}`;
}
