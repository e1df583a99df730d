import type { CaudalClient, Conversation, InputItem } from "caudal-client";
import type { ChatSummary } from "./chat-summary.ts";
import { rootOf } from "./family.ts";
import { isLocal } from "./local/ids.ts";
import { ServerChat } from "./server-chat.ts";
import type { ChatStorage } from "./storage.ts";
import { firstWords } from "./title.ts";
import { portable } from "./transcript.ts";

export interface ChatListState {
  /** Conversations and their branches, the newest first. */
  readonly chats: readonly ChatSummary[];
  readonly hasMore: boolean;
}

/** A conversation as a file. */
export interface ExportedChat {
  readonly title: string;
  readonly items: readonly InputItem[];
}

const PAGE = 30;
const LONGEST_TITLE = 60;
const POLL_MS = 20_000;

/** The conversations of the tenant: listed, named, deleted, and in step with other tabs at once and with other devices soon. */
export class ChatList {
  #state: ChatListState;
  #shown = PAGE;
  readonly #client: () => CaudalClient;
  readonly #storage: ChatStorage;
  readonly #listeners = new Set<() => void>();
  readonly #channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("caudal.chats");
  readonly #changed: () => void;

  /** `onChange` is called when another tab has changed a conversation. */
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

  /** Keeps the list fresh until the returned function is called. */
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
      // The connection's state tells the reader; what was listed last stays.
      const listed = this.#state.chats.filter(({ id }) => !isLocal(id));
      return this.#set({ chats: [...this.#locals(), ...listed] });
    }
    this.#set({ chats: [...this.#locals(), ...chats], hasMore });
  }

  /** Conversations that began in this browser, in whichever tab, and are not on the server. */
  #locals(): ChatSummary[] {
    return this.#storage.chats().filter(({ id }) => isLocal(id) && this.#storage.movedTo(id) === undefined);
  }

  /** Lists a conversation that begins in this browser. */
  addLocal(id: string, prompt: string, metadata: Record<string, string>): void {
    const title = metadata["parent"] === undefined ? firstWords(prompt) : undefined;
    const chat = { id, title, createdAt: Math.floor(Date.now() / 1000), metadata };
    this.#set({ chats: [chat, ...this.#state.chats] });
  }

  /** Gives the conversation that a local one has become on the server what was noted of the local one. */
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

  /** Lists older ones too: a page more, or all that there are. */
  async more(all = false): Promise<void> {
    this.#shown = all ? Number.POSITIVE_INFINITY : this.#state.chats.length + 1;
    if (this.#state.hasMore) await this.refresh();
  }

  /** Tells other tabs that a conversation has changed. */
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

  /** Deletes a conversation and its branches; returns their ids. */
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

  /** Makes a conversation of an exported one; returns its id. */
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

/** One line for each conversation and its branches, with the title that any of them has. */
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
