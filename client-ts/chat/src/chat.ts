import type { SessionState } from "./session.ts";
import type { Settings } from "./settings.ts";
import type { ChatStorage } from "./storage.ts";
import { isRunning, type Turn } from "./turn.ts";

export interface ChatState extends SessionState {
  readonly conversation: string | undefined;
  readonly turns: readonly Turn[];
  readonly settings: Settings;
  /** `true`: the address has the id of a conversation that the server does not have. */
  readonly isGone: boolean;
}

/** Holds the state that the page shows: a conversation, its turns and the state around them. Stores it and notifies listeners. */
export class Chat {
  #state: ChatState;
  readonly #storage: ChatStorage;
  readonly #listeners = new Set<() => void>();

  constructor(storage: ChatStorage, session: SessionState) {
    this.#storage = storage;
    this.#state = { ...storage.loadChat(), ...session, settings: storage.settings(), isGone: false };
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): ChatState => this.#state;

  get conversation(): string | undefined {
    return this.#state.conversation;
  }

  get turns(): readonly Turn[] {
    return this.#state.turns;
  }

  get last(): Turn | undefined {
    return this.turns.at(-1);
  }

  indexOf(key: string): number {
    return this.turns.findIndex((turn) => turn.key === key);
  }

  turn(key: string | undefined): Turn | undefined {
    return this.turns.find((turn) => turn.key === key);
  }

  /** The turns before this one. */
  before(key: string): readonly Turn[] {
    return this.turns.slice(0, Math.max(0, this.indexOf(key)));
  }

  update(key: string, change: Partial<Turn>): void {
    this.set({ turns: this.turns.map((turn) => (turn.key === key ? { ...turn, ...change } : turn)) });
  }

  /** Resolves when the turn has ended or was removed. */
  settled(key: string | undefined): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (isRunning(this.turn(key))) return;
        unsubscribe();
        resolve();
      };
      const unsubscribe = this.subscribe(look);
    });
  }

  save(): void {
    this.#storage.saveChat({ conversation: this.conversation, turns: this.turns });
  }

  set(change: Partial<ChatState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}
