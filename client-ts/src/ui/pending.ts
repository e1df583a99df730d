/** Stores questions without an answer, so that they survive a reload of the page. */

import type { TurnParams } from "../conversations.ts";
import { isRecord } from "../errors.ts";

/** `sessionStorage`, or an object with the same methods. */
export interface TurnStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export interface PendingTurn {
  /** The request's `client_request_id`: the server runs a request once, even if it is sent again. */
  key: string;
  params: TurnParams;
}

export class PendingTurns {
  readonly #storage: TurnStorage | undefined;

  constructor(storage?: TurnStorage) {
    this.#storage = storage ?? sessionStorageOf();
  }

  of(conversation: string): PendingTurn[] {
    try {
      const value: unknown = JSON.parse(this.#storage?.getItem(nameOf(conversation)) ?? "[]");
      const isTurn = (turn: unknown): turn is PendingTurn =>
        isRecord(turn) && typeof turn["key"] === "string" && isRecord(turn["params"]);
      return Array.isArray(value) ? value.filter(isTurn) : [];
    } catch {
      return [];
    }
  }

  add(conversation: string, turn: PendingTurn): void {
    this.#write(conversation, [...this.of(conversation).filter(({ key }) => key !== turn.key), turn]);
  }

  remove(conversation: string, key: string): void {
    this.#write(
      conversation,
      this.of(conversation).filter((turn) => turn.key !== key),
    );
  }

  #write(conversation: string, turns: PendingTurn[]): void {
    try {
      if (turns.length === 0) this.#storage?.removeItem(nameOf(conversation));
      else this.#storage?.setItem(nameOf(conversation), JSON.stringify(turns));
    } catch {
      // The storage is full or forbidden. Only a reload loses the question.
    }
  }
}

function nameOf(conversation: string): string {
  return `caudal:pending:${conversation}`;
}

/** Returns `sessionStorage`. Reading the property throws in a page that may not store anything. */
function sessionStorageOf(): TurnStorage | undefined {
  try {
    return globalThis.sessionStorage;
  } catch {
    return undefined;
  }
}
