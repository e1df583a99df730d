import type { CaudalClient } from "caudal-client";
import type { ChatList } from "./chat-list.ts";
import { titleOf } from "./title.ts";

interface FirstTurn {
  prompt: string;
  answer: string;
  model: string | undefined;
}

/** Lets the model name conversations after their first answers, one at a time. The user's requests go first. */
export class Titler {
  readonly #client: () => CaudalClient;
  readonly #list: ChatList;
  /** The conversations that wait for a title, by id. */
  readonly #untitled = new Map<string, FirstTurn>();
  #work = new AbortController();

  constructor(client: () => CaudalClient, list: ChatList) {
    this.#client = client;
    this.#list = list;
  }

  /** Stops until the next answer. */
  pause(): void {
    this.#work.abort();
  }

  async add(conversation: string, turn: FirstTurn): Promise<void> {
    if (!this.#untitled.has(conversation)) this.#untitled.set(conversation, turn);
    this.#work.abort();
    this.#work = new AbortController();
    const { signal } = this.#work;
    try {
      for (const [id, turn] of this.#untitled) {
        const { metadata } = await this.#client().conversations.retrieve(id);
        const isNamed = metadata["title"] !== undefined;
        const title = isNamed ? "" : await titleOf(this.#client(), { ...turn, signal });
        if (signal.aborted) return;
        if (title !== "") await this.#list.rename(id, title);
        this.#untitled.delete(id);
      }
    } catch {
      // The titles are tried again after the next answer, unless the conversation was deleted.
      if (!signal.aborted) this.#untitled.clear();
    }
  }
}
