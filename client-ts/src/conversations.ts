import type { Http } from "./http.ts";
import type { FunctionCallOutput, InputItem, InputTextPart, ItemStatus, OutputItem } from "./items.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";

export interface Conversation {
  id: string;
  object: "conversation";
  /** Unix seconds. */
  created_at: number;
  metadata: Record<string, string>;
}

/** A message of a conversation that is not an answer. */
export interface StoredMessage {
  type: "message";
  id: string;
  role: "user" | "system" | "developer";
  status: ItemStatus;
  content: readonly InputTextPart[];
}

/** What a conversation holds: what was asked, what was answered, and what functions gave. */
export type ConversationItem = StoredMessage | OutputItem | (FunctionCallOutput & { id: string });

export interface ConversationCreateParams {
  /** What has been said already. */
  items?: readonly InputItem[];
  metadata?: Record<string, string>;
}

/** Conversations that the server keeps: every request with `conversation` goes on from its items and adds both sides. */
export class Conversations {
  readonly items: ConversationItems;
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
    this.items = new ConversationItems(http);
  }

  create(params: ConversationCreateParams = {}): Promise<Conversation> {
    return this.#http.post("conversations", params);
  }

  retrieve(id: string): Promise<Conversation> {
    return this.#http.get(pathOf(id));
  }

  /** Replaces the metadata. */
  update(id: string, params: { metadata: Record<string, string> }): Promise<Conversation> {
    return this.#http.post(pathOf(id), params);
  }

  /** Deletes it with its items and the responses in it; one that runs is cancelled. */
  async delete(id: string): Promise<void> {
    await this.#http.delete(pathOf(id));
  }

  /** One page, the newest first. */
  list(query: PageQuery = {}): Promise<Page<Conversation>> {
    return this.#http.get("conversations", { ...query });
  }

  all(query: PageQuery = {}): AsyncGenerator<Conversation, void, undefined> {
    return everyOne((page) => this.list(page), query);
  }
}

export class ConversationItems {
  readonly #http: Http;

  /** @internal */
  constructor(http: Http) {
    this.#http = http;
  }

  /** Adds items at the end, all or none. */
  create(conversation: string, items: readonly InputItem[]): Promise<Page<ConversationItem>> {
    return this.#http.post(`${pathOf(conversation)}/items`, { items });
  }

  /** One page, the newest first. */
  list(conversation: string, query: PageQuery = {}): Promise<Page<ConversationItem>> {
    return this.#http.get(`${pathOf(conversation)}/items`, { ...query });
  }

  all(conversation: string, query: PageQuery = {}): AsyncGenerator<ConversationItem, void, undefined> {
    return everyOne((page) => this.list(conversation, page), query);
  }

  retrieve(conversation: string, item: string): Promise<ConversationItem> {
    return this.#http.get(`${pathOf(conversation)}/items/${encodeURIComponent(item)}`);
  }

  /** Takes an item out; gives the conversation without it. */
  delete(conversation: string, item: string): Promise<Conversation> {
    return this.#http.delete(`${pathOf(conversation)}/items/${encodeURIComponent(item)}`);
  }
}

function pathOf(conversation: string): string {
  return `conversations/${encodeURIComponent(conversation)}`;
}
