import { isRunning, type Turn } from "./turn.ts";

const TURNS = "caudal.chat.v1";
const TOKEN = "caudal.token";
const MODEL = "caudal.model";

const UNSAID = { answer: "", thinking: undefined, calls: undefined, retryAt: undefined, stopping: false };

/**
 * A running turn is kept without its answer: it is replayed from the start, so nothing of it can be lost or doubled.
 */
export function saveTurns(turns: readonly Turn[]): void {
  const kept = turns.map((turn) => (isRunning(turn) ? { ...turn, ...UNSAID } : turn));
  attempt(() => localStorage.setItem(TURNS, JSON.stringify(kept)));
}

export function loadTurns(): readonly Turn[] {
  const stored = attempt(() => JSON.parse(localStorage.getItem(TURNS) ?? "[]") as unknown);
  return Array.isArray(stored) ? stored.filter(isTurn) : [];
}

/** Calls back when another tab has saved. */
export function onSavedElsewhere(listener: () => void): void {
  window.addEventListener("storage", (event) => {
    if (event.key === TURNS) listener();
  });
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
