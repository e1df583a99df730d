import type { ResponseHandle } from "./handle.ts";
import type { Http } from "./http.ts";
import type { InputItem } from "./items.ts";
import { lazy } from "./lazy.ts";
import type { Link } from "./link.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";
import type { FollowOptions, Responses } from "./responses.ts";
import type { ResponseCreateParams } from "./types.ts";
import type {
  Conversation,
  ConversationCreateParams,
  ConversationForkParams,
  ConversationItem,
  StoredMessage,
} from "./wire.ts";

/** A request in a conversation that a method names. */
export type TurnParams = Omit<ResponseCreateParams, "conversation" | "previous_response_id">;

export interface Edited {
  /** The fork. */
  conversation: Conversation;
  response: ResponseHandle;
}

export type { Conversation, ConversationCreateParams, ConversationForkParams, ConversationItem, StoredMessage };

/** Conversations that the server keeps: every request with `conversation` goes on from its items and adds both sides. */
export class Conversations {
  readonly items: ConversationItems;
  readonly #http: Http;
  readonly #link: Link;
  readonly #responses: Responses;

  /** @internal */
  constructor(http: Http, link: Link, responses: Responses) {
    this.#http = http;
    this.#link = link;
    this.#responses = responses;
    this.items = new ConversationItems(http);
  }

  /**
   * The turns of a conversation that others ask for: first what runs there, or ran last, then each one as it begins, until
   * `signal` is aborted or the loop is left. What this client follows already is not among them. Stays connected. Of the
   * turns that began and ended during an outage only the last is told of; the items have them all.
   */
  async *follow(
    conversation: string,
    options: { signal?: AbortSignal } = {},
  ): AsyncGenerator<ResponseHandle, void, undefined> {
    const { follow } = await lazy(() => import("./follow.ts"));
    yield* follow(this.#link, this.#responses, conversation, options.signal);
  }

  /**
   * Asks for the last answer again: deletes the items after the last message of a user, and goes on from there. `params` are
   * the settings of the new response. Fork the conversation before to keep the old answer.
   */
  async regenerate(id: string, params: TurnParams = {}, options: FollowOptions = {}): Promise<ResponseHandle> {
    await (await lazy(() => import("./branches.ts"))).takeBack(this, id);
    return this.#responses.create({ ...params, conversation: id }, options);
  }

  /** Copies a conversation: whole, or up to the item `before`, which is left out. Items of the copy have ids of their own. */
  fork(id: string, params: ConversationForkParams = {}): Promise<Conversation> {
    return this.#http.post(["conversations", id, "fork"], params);
  }

  /** Forks a conversation before an item and asks there with the new input. The old conversation stays as it is. */
  async edit(id: string, item: string, params: TurnParams, options: FollowOptions = {}): Promise<Edited> {
    const conversation = await this.fork(id, { before: item });
    return { conversation, response: this.#responses.create({ ...params, conversation: conversation.id }, options) };
  }

  create(params: ConversationCreateParams = {}): Promise<Conversation> {
    return this.#http.post(["conversations"], params);
  }

  retrieve(id: string): Promise<Conversation> {
    return this.#http.get(["conversations", id]);
  }

  /** Replaces the metadata. */
  update(id: string, params: { metadata: Record<string, string> }): Promise<Conversation> {
    return this.#http.post(["conversations", id], params);
  }

  /** Deletes it with its items and the responses in it; one that runs is cancelled. */
  async delete(id: string): Promise<void> {
    await this.#http.delete(["conversations", id]);
  }

  /** One page, the newest first. */
  list(query: PageQuery = {}): Promise<Page<Conversation>> {
    return this.#http.get(["conversations"], query);
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
    return this.#http.post(["conversations", conversation, "items"], { items });
  }

  /** One page, the newest first. */
  list(conversation: string, query: PageQuery = {}): Promise<Page<ConversationItem>> {
    return this.#http.get(["conversations", conversation, "items"], query);
  }

  all(conversation: string, query: PageQuery = {}): AsyncGenerator<ConversationItem, void, undefined> {
    return everyOne((page) => this.list(conversation, page), query);
  }

  retrieve(conversation: string, item: string): Promise<ConversationItem> {
    return this.#http.get(["conversations", conversation, "items", item]);
  }

  /** Takes an item out; gives the conversation without it. */
  delete(conversation: string, item: string): Promise<Conversation> {
    return this.#http.delete(["conversations", conversation, "items", item]);
  }
}
