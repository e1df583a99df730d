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

/** A create request whose conversation is a separate argument of the method. */
export type TurnParams = Omit<ResponseCreateParams, "conversation" | "previous_response_id">;

export interface Edited {
  /** The fork. */
  conversation: Conversation;
  response: ResponseHandle;
}

export type { Conversation, ConversationCreateParams, ConversationForkParams, ConversationItem, StoredMessage };

/**
 * Conversations that the server stores. A request with `conversation` continues from the conversation's items; the
 * server appends its input and output to them.
 */
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
   * Yields the turns of a conversation that other clients create: first the running turn, or else the latest, then each
   * turn as it begins. Ends when `signal` is aborted or the loop is left. Omits turns that this client follows already.
   * Keeps the client connected. Of the turns that began and ended during an outage only the last is yielded; `items`
   * has all.
   */
  async *follow(
    conversation: string,
    options: { signal?: AbortSignal } = {},
  ): AsyncGenerator<ResponseHandle, void, undefined> {
    const { follow } = await lazy(() => import("./follow.ts"));
    yield* follow(this.#link, this.#responses, conversation, options.signal);
  }

  /**
   * Replaces the last answer: deletes the items after the last message of the user and creates a response with the
   * settings `params`. To keep the old answer, fork the conversation first.
   */
  async regenerate(id: string, params: TurnParams = {}, options: FollowOptions = {}): Promise<ResponseHandle> {
    await (await lazy(() => import("./branches.ts"))).takeBack(this, id);
    return this.#responses.create({ ...params, conversation: id }, options);
  }

  /** Copies a conversation: all items, or those before the item `before`. The copied items have new ids. */
  fork(id: string, params: ConversationForkParams = {}): Promise<Conversation> {
    return this.#http.post(["conversations", id, "fork"], params);
  }

  /**
   * Forks a conversation before `item` and creates a response to the new input in the fork. The original does not
   * change.
   */
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

  /** Deletes a conversation with its items and responses; cancels the response that runs. */
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

  /** Appends the items: all, or none if one is refused. */
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

  /** Deletes an item. Resolves to the conversation. */
  delete(conversation: string, item: string): Promise<Conversation> {
    return this.#http.delete(["conversations", conversation, "items", item]);
  }
}
