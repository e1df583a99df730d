/** The branches of a thread: a conversation and the forks that edits and reloads make of it. */

import type { CaudalClient } from "../client.ts";
import type { TurnParams } from "../conversations.ts";
import {
  type ConversationOptions,
  type ConversationSnapshot,
  type ConversationStore,
  EMPTY,
} from "../ui/conversation-store.ts";
import { storeOf } from "../ui/stores.ts";
import { isRunning, type Turn } from "../ui/turns.ts";

/** A message of a thread: one side of a turn. */
export interface ThreadEntry {
  readonly id: string;
  readonly role: "user" | "assistant";
  readonly turn: Turn;
}

export interface ThreadSnapshot {
  readonly conversation: ConversationSnapshot;
  readonly messages: readonly ThreadEntry[];
}

/** The place at which a fork leaves its original conversation. */
interface Origin {
  readonly store: ConversationStore;
  /** The index of the first turn that differs. */
  readonly at: number;
  /** `true`: that turn has the same question, and only the answer differs. */
  readonly keepsInput: boolean;
}

export const NOTHING: ThreadSnapshot = { conversation: EMPTY, messages: [] };

export class Branches {
  readonly #client: CaudalClient;
  readonly #options: ConversationOptions;
  readonly #listeners = new Set<() => void>();
  readonly #origins = new Map<ConversationStore, Origin | undefined>();
  readonly #entries = new WeakMap<Turn, readonly ThreadEntry[]>();
  readonly #results = new Map<string, string>();
  #store: ConversationStore;
  #snapshot: ThreadSnapshot;
  #unsubscribe: (() => void) | undefined;

  constructor(client: CaudalClient, id: string | undefined, options: ConversationOptions) {
    this.#client = client;
    this.#options = options;
    this.#store = storeOf(client, id, options);
    this.#origins.set(this.#store, undefined);
    this.#snapshot = this.#take();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    this.#unsubscribe ??= this.#store.subscribe(this.#changed);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      this.#unsubscribe?.();
      this.#unsubscribe = undefined;
    };
  };

  readonly getSnapshot = (): ThreadSnapshot => this.#snapshot;

  send(text: string, params: TurnParams): void {
    this.#store.send(text, params);
  }

  stop(): Promise<void> {
    return this.#store.stop();
  }

  loadOlder(): Promise<void> {
    return this.#store.loadOlder();
  }

  /** Replaces a message of the user, in a fork. */
  async edit(messageId: string, text: string, params: TurnParams): Promise<void> {
    const turn = this.#turnOf(messageId);
    if (turn) await this.#fork(turn, text, false, params);
  }

  /** Creates another answer to a message, in a fork; the old answer stays in its branch. */
  async reload(messageId: string | null, params: TurnParams): Promise<void> {
    const turn = messageId === null ? undefined : this.#turnOf(messageId);
    if (!turn || isRunning(turn)) return;
    // A failed turn has no answer to preserve, so it needs no fork.
    if (turn.status === "failed") this.#store.regenerate(params);
    else await this.#fork(turn, turn.input, true, params);
  }

  /** Shows the branch that ends with this message. */
  show(messageId: string | undefined): void {
    for (const store of this.#origins.keys()) {
      if (this.#messagesOf(store).at(-1)?.id === messageId) return this.#switch(store);
    }
  }

  /** Stores a call's result, and sends all results once every call has one. */
  answer(callId: string, result: unknown, params: TurnParams): void {
    this.#results.set(callId, typeof result === "string" ? result : (JSON.stringify(result) ?? "null"));
    const turn = this.#snapshot.conversation.turns.at(-1);
    const open = openCalls(turn);
    if (open.length === 0 || !open.every((call) => this.#results.has(call))) return;
    this.#store.sendOutputs(
      open.map((callId) => ({ callId, output: this.#results.get(callId) ?? "" })),
      params,
    );
  }

  async #fork(turn: Turn, input: string, keepsInput: boolean, params: TurnParams): Promise<void> {
    const store = this.#store;
    // Branches are matched by the index of their turns, which needs all turns loaded.
    while (store.getSnapshot().hasOlder) await store.loadOlder();
    const at = store.getSnapshot().turns.findIndex(({ key }) => key === turn.key);
    const fork = storeOf(this.#client, await store.forkBefore(turn.key), this.#options);
    await loaded(fork);
    this.#origins.set(fork, { store, at, keepsInput });
    fork.send(input, params);
    this.#switch(fork);
  }

  #switch(store: ConversationStore): void {
    if (store === this.#store) return;
    const leave = this.#unsubscribe;
    this.#store = store;
    this.#unsubscribe = leave && store.subscribe(this.#changed);
    leave?.();
    this.#changed();
  }

  readonly #changed = (): void => {
    this.#snapshot = this.#take();
    for (const listener of [...this.#listeners]) listener();
  };

  #take(): ThreadSnapshot {
    return { conversation: this.#store.getSnapshot(), messages: this.#messagesOf(this.#store) };
  }

  #turnOf(messageId: string): Turn | undefined {
    return this.#snapshot.messages.find(({ id }) => id === messageId)?.turn;
  }

  #messagesOf(store: ConversationStore): ThreadEntry[] {
    return store.getSnapshot().turns.flatMap((turn, index) => {
      const ids = this.#idsOf(store, turn, index);
      const known = this.#entries.get(turn);
      if (known?.at(-1)?.id === ids.answer && known[0]?.id === (turn.input === "" ? ids.answer : ids.input))
        return known;
      const answer: ThreadEntry = { id: ids.answer, role: "assistant", turn };
      const entries = turn.input === "" ? [answer] : [{ id: ids.input, role: "user" as const, turn }, answer];
      this.#entries.set(turn, entries);
      return entries;
    });
  }

  /** Returns the message ids of a turn. Messages that branches share have the same ids in all of them. */
  #idsOf(store: ConversationStore, turn: Turn, index: number): { input: string; answer: string } {
    const own = { input: `${turn.key}:input`, answer: turn.key };
    const origin = this.#origins.get(store);
    const theirs = origin?.store.getSnapshot().turns[index];
    if (!origin || !theirs || index > origin.at) return own;
    const shared = this.#idsOf(origin.store, theirs, index);
    if (index < origin.at) return shared;
    return origin.keepsInput ? { ...own, input: shared.input } : own;
  }
}

/** Returns the ids of an ended turn's calls that have no result yet. */
export function openCalls(turn: Turn | undefined): string[] {
  if (turn?.status !== "ended") return [];
  return turn.parts.flatMap((part) => (part.type === "call" && part.output === undefined ? [part.callId] : []));
}

/** Resolves when the whole conversation is loaded, or cannot be loaded. */
async function loaded(store: ConversationStore): Promise<void> {
  await new Promise<void>((resolve) => {
    const leave = store.subscribe(() => check());
    const check = (): void => {
      if (store.getSnapshot().status === "loading") return;
      resolve();
      // Unsubscribes after the next listener has subscribed, so that the store keeps its state.
      setTimeout(leave);
    };
    check();
  });
  while (store.getSnapshot().hasOlder) await store.loadOlder();
}
