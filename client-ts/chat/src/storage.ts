import type { ChatSummary } from "./chat-summary.ts";
import { type Settings, settingsFrom } from "./settings.ts";
import { isRunning, type Turn, type TurnStatus } from "./turn.ts";

const CHAT = "caudal.chat.v2";
const KEPT = "caudal.kept.";
const KEPT_LIST = "caudal.kept";
const CHATS = "caudal.chats";
const TOKEN = "caudal.token";
const MODEL = "caudal.model";
const SETTINGS = "caudal.settings";
const LOCAL_MODEL = "caudal.local";
const MOVED = "caudal.moved";
/** The number of conversations that can be read without the server. */
const MOST_KEPT = 20;
/** The number of remembered ids of conversations that began in this browser, for tabs that still show them. */
const MOST_MOVED = 100;

/** The state that a reload restores: the conversation's id, and its turns as the page showed them. */
export interface SavedChat {
  readonly conversation: string | undefined;
  readonly turns: readonly Turn[];
}

/** The page's storage. The element in another page uses one that stores nothing. */
export interface ChatStorage {
  saveChat(chat: SavedChat): void;
  /** Returns the chat whose id is in the address, or else the last one. */
  loadChat(): SavedChat;
  /** Returns the turns of a conversation as they were shown last. */
  loadTurns(conversation: string): readonly Turn[];
  forget(conversation: string): void;
  /** Returns the id that a local conversation has received on the server. */
  movedTo(conversation: string): string | undefined;
  /** Stores the turns of a conversation whose id may have changed. */
  move(from: string, to: string, turns: readonly Turn[]): void;
  /** Whether the model's file is stored in this browser, or was deleted. `undefined`: it was never stored. */
  localModel(): "stored" | "deleted" | undefined;
  saveLocalModel(state: "stored" | "deleted"): void;
  token(): string | undefined;
  saveToken(token: string): void;
  model(): string | undefined;
  saveModel(id: string): void;
  settings(): Settings;
  saveSettings(settings: Settings): void;
  chats(): readonly ChatSummary[];
  saveChats(chats: readonly ChatSummary[]): void;
}

const UNSAID = {
  answer: "",
  thinking: undefined,
  calls: undefined,
  retryAt: undefined,
  stopping: false,
  loading: undefined,
};

/** The storage of the browser. */
export const pageStorage: ChatStorage = {
  /**
   * Writes the conversation's id into the address, so that the link opens it elsewhere. A running turn is stored without its
   * answer: the answer is replayed from the start, so no part of it is lost or doubled.
   */
  saveChat({ conversation, turns }) {
    const kept = turns.map((turn) => (isRunning(turn) ? { ...turn, ...UNSAID } : turn));
    write(CHAT, { conversation, turns: kept });
    if (conversation !== undefined) keep(conversation, kept);
    const address = new URL(location.href);
    address.hash = conversation ?? "";
    if (address.href !== location.href) attempt(() => history.replaceState(history.state, "", address));
  },
  loadChat() {
    const hash = location.hash.slice(1) || undefined;
    const named = hash && (this.movedTo(hash) ?? hash);
    const stored = (read(CHAT) ?? {}) as Partial<SavedChat>;
    const conversation = typeof stored.conversation === "string" ? stored.conversation : undefined;
    if (named !== undefined && named !== conversation) return { conversation: named, turns: this.loadTurns(named) };
    return { conversation, turns: turnsFrom(stored.turns) };
  },
  loadTurns: (conversation) => turnsFrom(read(KEPT + conversation)),
  forget(conversation) {
    attempt(() => localStorage.removeItem(KEPT + conversation));
    write(
      KEPT_LIST,
      keptIds().filter((id) => id !== conversation),
    );
  },
  movedTo: (conversation) => movedIds().find(([from]) => from === conversation)?.[1],
  move(from, to, turns) {
    keep(to, turns);
    if (from === to) return;
    write(MOVED, [[from, to], ...movedIds()].slice(0, MOST_MOVED));
    this.forget(from);
  },
  localModel() {
    const state = attempt(() => localStorage.getItem(LOCAL_MODEL));
    return state === "stored" || state === "deleted" ? state : undefined;
  },
  saveLocalModel: (state) => attempt(() => localStorage.setItem(LOCAL_MODEL, state)),
  // A token is stored for this tab only.
  token: () => attempt(() => sessionStorage.getItem(TOKEN)) ?? undefined,
  saveToken: (token) => attempt(() => sessionStorage.setItem(TOKEN, token)),
  model: () => attempt(() => localStorage.getItem(MODEL)) ?? undefined,
  saveModel: (id) => attempt(() => localStorage.setItem(MODEL, id)),
  settings: () => settingsFrom(read(SETTINGS)),
  saveSettings: (settings) => write(SETTINGS, settings),
  chats() {
    const value = read(CHATS);
    return Array.isArray(value) ? value.filter(isSummary) : [];
  },
  saveChats: (chats) => write(CHATS, chats.slice(0, 200)),
};

/** Makes a storage that stores nothing, for the element in another page. */
export function memoryStorage(conversation: string | undefined, token: string | undefined): ChatStorage {
  return {
    saveChat: () => undefined,
    loadChat: () => ({ conversation, turns: [] }),
    loadTurns: () => [],
    forget: () => undefined,
    movedTo: () => undefined,
    move: () => undefined,
    localModel: () => undefined,
    saveLocalModel: () => undefined,
    token: () => token,
    saveToken: (given) => {
      token = given;
    },
    model: () => undefined,
    saveModel: () => undefined,
    settings: () => settingsFrom(undefined),
    saveSettings: () => undefined,
    chats: () => [],
    saveChats: () => undefined,
  };
}

function movedIds(): (readonly [from: string, to: string])[] {
  const value = read(MOVED);
  return Array.isArray(value)
    ? value.filter((pair) => Array.isArray(pair) && pair.length === 2 && pair.every(isText))
    : [];
}

function keptIds(): string[] {
  const value = read(KEPT_LIST);
  return Array.isArray(value) ? value.filter((id) => typeof id === "string") : [];
}

function keep(conversation: string, turns: readonly Turn[]): void {
  const ids = [conversation, ...keptIds().filter((id) => id !== conversation)];
  for (const old of ids.splice(MOST_KEPT)) attempt(() => localStorage.removeItem(KEPT + old));
  // If the storage is full, the oldest conversations are removed.
  while (!write(KEPT + conversation, turns) && ids.length > 1) {
    const old = ids.pop();
    attempt(() => localStorage.removeItem(KEPT + old));
  }
  write(KEPT_LIST, ids);
}

const STATUSES: readonly TurnStatus[] = ["waiting", "streaming", "done", "stopped", "cut", "failed"];

/** Reads stored turns. Omits those of another shape. */
function turnsFrom(value: unknown): Turn[] {
  return Array.isArray(value) ? value.flatMap((given) => turnFrom(given) ?? []) : [];
}

function turnFrom(value: unknown): Turn | undefined {
  const turn = value as Turn | null;
  const isTurn = typeof turn === "object" && turn !== null && [turn.key, turn.prompt, turn.answer].every(isText);
  if (!isTurn || !STATUSES.includes(turn.status)) return undefined;
  const isThinking = isText(turn.thinking?.text);
  return {
    ...turn,
    thinking: isThinking ? turn.thinking : undefined,
    calls: listOf(turn.calls, ({ id, name, arguments: args }) => [id, name, args].every(isText)),
    attachments: listOf(turn.attachments, ({ name, text }) => [name, text].every(isText)),
  };
}

function listOf<T extends object>(
  value: readonly T[] | undefined,
  isOne: (one: T) => boolean,
): readonly T[] | undefined {
  return Array.isArray(value)
    ? value.filter((one) => typeof one === "object" && one !== null && isOne(one))
    : undefined;
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function isSummary(value: unknown): value is ChatSummary {
  const chat = value as ChatSummary | null;
  return (
    typeof chat === "object" &&
    chat !== null &&
    isText(chat.id) &&
    typeof chat.metadata === "object" &&
    chat.metadata !== null
  );
}

function read(name: string): unknown {
  return attempt(() => JSON.parse(localStorage.getItem(name) ?? "null"));
}

/** Returns whether the value was written. */
function write(name: string, value: unknown): boolean {
  const text = JSON.stringify(value);
  attempt(() => localStorage.setItem(name, text));
  return attempt(() => localStorage.getItem(name)) === text;
}

/** Runs an action on the storage. If the storage is disabled or full, the page works without it. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
