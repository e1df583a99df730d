import { isRunning, type Turn } from "./turn.ts";

const CHAT = "caudal.chat.v2";
const TOKEN = "caudal.token";
const MODEL = "caudal.model";

/** What a reload begins with: the server has the conversation, the page what it showed of it. */
export interface SavedChat {
  readonly conversation: string | undefined;
  readonly turns: readonly Turn[];
}

const UNSAID = { answer: "", thinking: undefined, calls: undefined, retryAt: undefined, stopping: false };

/**
 * The address names the conversation, so that it can be opened elsewhere. A running turn is kept without its answer: it is
 * replayed from the start, so nothing of it can be lost or doubled.
 */
export function saveChat({ conversation, turns }: SavedChat): void {
  const kept = turns.map((turn) => (isRunning(turn) ? { ...turn, ...UNSAID } : turn));
  attempt(() => localStorage.setItem(CHAT, JSON.stringify({ conversation, turns: kept })));
  const address = new URL(location.href);
  address.hash = conversation ?? "";
  if (address.href !== location.href) history.replaceState(history.state, "", address);
}

/** The chat that the address names, or else the last one. */
export function loadChat(): SavedChat {
  const named = location.hash.slice(1) || undefined;
  const stored = attempt(() => JSON.parse(localStorage.getItem(CHAT) ?? "{}") as Partial<SavedChat>) ?? {};
  const conversation = typeof stored.conversation === "string" ? stored.conversation : undefined;
  if (named !== undefined && named !== conversation) return { conversation: named, turns: [] };
  return { conversation, turns: Array.isArray(stored.turns) ? stored.turns.filter(isTurn) : [] };
}

/** A token stays with the tab. */
export function loadToken(): string | undefined {
  return attempt(() => sessionStorage.getItem(TOKEN)) ?? undefined;
}

export function saveToken(token: string): void {
  attempt(() => sessionStorage.setItem(TOKEN, token));
}

export function loadModel(): string | undefined {
  return attempt(() => localStorage.getItem(MODEL)) ?? undefined;
}

export function saveModel(id: string): void {
  attempt(() => localStorage.setItem(MODEL, id));
}

function isTurn(value: unknown): value is Turn {
  const turn = value as Partial<Turn> | null;
  return (
    typeof turn === "object" &&
    turn !== null &&
    typeof turn.key === "string" &&
    typeof turn.prompt === "string" &&
    typeof turn.answer === "string" &&
    typeof turn.status === "string"
  );
}

/** Storage may be off or full; the page then works without it. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
