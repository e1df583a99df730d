import type { CaudalClient, Conversation, InputItem } from "caudal-client";
import type { ChatSummary } from "./chat-summary.ts";
import { rootOf } from "./family.ts";
import { isLocal } from "./local/ids.ts";
import { ServerChat } from "./server-chat.ts";
import type { ChatStorage } from "./storage.ts";
import { firstWords } from "./title.ts";
import { portable } from "./transcript.ts";

export interface ChatListState {
  /** Conversations and their branches, newest first. */
  readonly chats: readonly ChatSummary[];
  readonly hasMore: boolean;
}

/** The content of an exported file. */
export interface ExportedChat {
  readonly title: string;
  readonly items: readonly InputItem[];
}

const PAGE = 30;
const LONGEST_TITLE = 60;
const POLL_MS = 20_000;

/**
 * The list of the tenant's conversations. Other tabs are notified of changes at once; changes of other devices appear within
 * `POLL_MS`.
 */
export class ChatList {
  #state: ChatListState;
  #shown = PAGE;
  readonly #client: () => CaudalClient;
  readonly #storage: ChatStorage;
  readonly #listeners = new Set<() => void>();
  readonly #channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("caudal.chats");
  readonly #changed: () => void;

  /** Calls `onChange` when another tab has changed a conversation. */
  constructor(client: () => CaudalClient, storage: ChatStorage, onChange: () => void) {
    this.#client = client;
    this.#storage = storage;
    this.#changed = onChange;
    this.#state = { chats: storage.chats(), hasMore: false };
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): ChatListState => this.#state;

  /** Refreshes the list periodically, and when the page is shown, until the returned function is called. */
  watch(): () => void {
    const refresh = (): void => {
      if (document.hidden) return;
      void this.refresh();
      this.#changed();
    };
    if (this.#channel) this.#channel.onmessage = refresh;
    const timer = setInterval(() => !document.hidden && void this.refresh(), POLL_MS);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", refresh);
      if (this.#channel) this.#channel.onmessage = null;
    };
  }

  async refresh(): Promise<void> {
    const chats: ChatSummary[] = [];
    let hasMore = false;
    try {
      do {
        const after = chats.at(-1)?.id;
        const page = await this.#client().conversations.list({ limit: 100, ...(after === undefined ? {} : { after }) });
        chats.push(...(page.data ?? []).map(summaryOf));
        hasMore = page.has_more;
      } while (hasMore && chats.length < this.#shown);
    } catch {
      // The page shows the state of the connection, and the last list stays.
      const listed = this.#state.chats.filter(({ id }) => !isLocal(id));
      return this.#set({ chats: [...this.#locals(), ...listed] });
    }
    this.#set({ chats: [...this.#locals(), ...chats], hasMore });
  }

  /** Returns the conversations that began in any tab of this browser and are not on the server yet. */
  #locals(): ChatSummary[] {
    return this.#storage.chats().filter(({ id }) => isLocal(id) && this.#storage.movedTo(id) === undefined);
  }

  /** Adds a conversation that begins in this browser. */
  addLocal(id: string, prompt: string, metadata: Record<string, string>): void {
    const title = metadata["parent"] === undefined ? firstWords(prompt) : undefined;
    const chat = { id, title, createdAt: Math.floor(Date.now() / 1000), metadata };
    this.#set({ chats: [chat, ...this.#state.chats] });
  }

  /** Copies the metadata of a local conversation to the conversation `id` on the server, which it has become. */
  async joined(local: string, id: string): Promise<void> {
    const metadata = { ...this.#state.chats.find((chat) => chat.id === local)?.metadata };
    this.#set({ chats: this.#state.chats.filter((chat) => chat.id !== local) });
    for (const name of ["parent", "root"]) {
      const of = metadata[name];
      if (of !== undefined) metadata[name] = this.#storage.movedTo(of) ?? of;
    }
    if (Object.keys(metadata).length === 0) return;
    const { conversations } = this.#client();
    await conversations.update(id, { metadata: { ...(await conversations.retrieve(id)).metadata, ...metadata } });
  }

  /** Lists one more page of older conversations, or all of them. */
  async more(all = false): Promise<void> {
    this.#shown = all ? Number.POSITIVE_INFINITY : this.#state.chats.length + 1;
    if (this.#state.hasMore) await this.refresh();
  }

  /** Notifies other tabs that a conversation has changed. */
  announce(): void {
    this.#channel?.postMessage("changed");
  }

  async changed(): Promise<void> {
    await this.refresh();
    this.announce();
  }

  async rename(id: string, title: string): Promise<void> {
    const { metadata } = await this.#client().conversations.retrieve(id);
    await this.#client().conversations.update(id, { metadata: { ...metadata, title: title.slice(0, LONGEST_TITLE) } });
    await this.changed();
  }

  /** Deletes a conversation and its branches. Resolves to their ids. */
  async remove(id: string): Promise<readonly string[]> {
    const chat = this.#state.chats.find((chat) => chat.id === id);
    const root = chat ? rootOf(chat) : id;
    const family = this.#state.chats.filter((chat) => rootOf(chat) === root).map((chat) => chat.id);
    const ids = family.length > 0 ? family : [id];
    for (const one of ids) {
      if (!isLocal(one)) await this.#client().conversations.delete(one);
      this.#storage.forget(one);
    }
    this.#set({ chats: this.#state.chats.filter((chat) => !ids.includes(chat.id)) });
    await this.changed();
    return ids;
  }

  async export(id: string): Promise<ExportedChat> {
    const items = [];
    const all = this.#client().conversations.items.all(id, { order: "asc", limit: 100 });
    for await (const item of all) items.push(item);
    return { title: this.#state.chats.find((chat) => chat.id === id)?.title ?? "", items: portable(items) };
  }

  /** Creates a conversation from an exported one. Resolves to its id. */
  async import({ title, items }: ExportedChat): Promise<string> {
    const metadata: Record<string, string> = title === "" ? {} : { title: title.slice(0, LONGEST_TITLE) };
    const id = await new ServerChat(this.#client).create(items, metadata);
    await this.changed();
    return id;
  }

  #set(change: Partial<ChatListState>): void {
    this.#state = { ...this.#state, ...change };
    this.#storage.saveChats(this.#state.chats);
    for (const listener of this.#listeners) listener();
  }
}

function summaryOf({ id, created_at, metadata }: Conversation): ChatSummary {
  return { id, title: metadata["title"], createdAt: created_at, metadata };
}

/** Returns one entry for each conversation with its branches, with the title of any of them. */
export function familiesOf(chats: readonly ChatSummary[], search: string): ChatSummary[] {
  const roots = new Map<string, ChatSummary>();
  for (const chat of chats) {
    const root = rootOf(chat);
    const known = roots.get(root);
    if (!known || chat.id === root) roots.set(root, { ...chat, title: chat.title ?? known?.title });
  }
  const words = search.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return [...roots.values()].filter(({ title = "" }) =>
    words.every((word) => title.toLocaleLowerCase().includes(word)),
  );
}
