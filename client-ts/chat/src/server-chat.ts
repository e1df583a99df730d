import { type CaudalClient, type ConversationItem, type InputItem, NotFoundError } from "caudal-client";
import type { ChatSummary } from "./chat-summary.ts";
import { rootOf } from "./family.ts";
import { itemsByTurn, turnsOf } from "./transcript.ts";

/** The number of items that one request may have. */
const ITEMS_AT_ONCE = 20;

/** Reads and changes the items of conversations on the server. */
export class ServerChat {
  readonly #client: () => CaudalClient;

  constructor(client: () => CaudalClient) {
    this.#client = client;
  }

  /** Fetches all items; `undefined` if the server does not have the conversation. */
  async items(conversation: string): Promise<ConversationItem[] | undefined> {
    const items: ConversationItem[] = [];
    try {
      const all = this.#client().conversations.items.all(conversation, { order: "asc", limit: 100 });
      for await (const item of all) items.push(item);
      return items;
    } catch (error) {
      if (error instanceof NotFoundError) return undefined;
      throw error;
    }
  }

  /** Creates a conversation that begins with these items. Resolves to its id. */
  async create(items: readonly InputItem[], metadata: Record<string, string> = {}): Promise<string> {
    const { conversations } = this.#client();
    const { id } = await conversations.create({ items: items.slice(0, ITEMS_AT_ONCE), metadata });
    for (let from = ITEMS_AT_ONCE; from < items.length; from += ITEMS_AT_ONCE) {
      await conversations.items.create(id, items.slice(from, from + ITEMS_AT_ONCE));
    }
    return id;
  }

  /** Deletes the last turn if there are more than `turns` turns. */
  async deleteLastTurn(conversation: string, turns: number): Promise<void> {
    const items = await this.items(conversation);
    if (!items || turnsOf(items).length <= turns) return;
    const from = items.findLastIndex((item) => item.type === "message" && item.role === "user");
    await this.#delete(conversation, items.slice(from));
  }

  async deleteTurn(conversation: string, at: number): Promise<void> {
    await this.#delete(conversation, itemsByTurn((await this.items(conversation)) ?? [])[at] ?? []);
  }

  /**
   * Forks a conversation before a turn. Resolves to the fork's id, to the conversation's own id if it does not have the turn, or
   * to `undefined` if the server does not have the conversation.
   */
  async fork(conversation: string, at: number): Promise<string | undefined> {
    const items = await this.items(conversation);
    const first = items && itemsByTurn(items)[at]?.[0];
    if (!first) return items && conversation;
    const { metadata } = await this.#client().conversations.retrieve(conversation);
    const own = branchOf({ id: conversation, metadata }, at);
    const before = { before: first.id, metadata: { ...metadata, ...own } };
    return (await this.#client().conversations.fork(conversation, before)).id;
  }

  /** Deletes the newest item first: if the loop stops early, the rest is still the beginning of the conversation. */
  async #delete(conversation: string, items: readonly ConversationItem[]): Promise<void> {
    for (const { id } of [...items].reverse()) await this.#client().conversations.items.delete(conversation, id);
  }
}

/** Returns the metadata of a branch whose first own turn is number `at`. */
export function branchOf(parent: Pick<ChatSummary, "id" | "metadata">, at: number): Record<string, string> {
  return { parent: parent.id, root: rootOf(parent), at: String(at) };
}
