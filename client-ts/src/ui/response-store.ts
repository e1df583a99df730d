/** One response for display. Independent of any framework: subscribe, and read `getSnapshot`. */

import type { ResponseHandle } from "../handle.ts";
import { nextFrame } from "../pace.ts";
import type { ResponseObject } from "../types.ts";
import { Answer, type AnswerPart, partsOf } from "./answer.ts";
import type { TurnStatus } from "./turns.ts";

export interface ResponseSnapshot {
  readonly status: TurnStatus;
  readonly parts: readonly AnswerPart[];
  /** The response, once it has ended. */
  readonly response?: ResponseObject;
  readonly error?: Error;
}

export const PENDING: ResponseSnapshot = { status: "queued", parts: [] };

export class ResponseStore {
  readonly #handle: ResponseHandle;
  readonly #listeners = new Set<() => void>();
  #snapshot = PENDING;
  #hasBegun = false;

  constructor(handle: ResponseHandle) {
    this.#handle = handle;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    if (!this.#hasBegun) void this.#read();
    this.#hasBegun = true;
    return () => this.#listeners.delete(listener);
  };

  readonly getSnapshot = (): ResponseSnapshot => this.#snapshot;

  async #read(): Promise<void> {
    const answer = new Answer();
    let isFrameDue = false;
    const paint = (): void => {
      isFrameDue = false;
      if (this.#snapshot.status !== "ended" && this.#snapshot.status !== "failed") {
        this.#set({ status: answer.status, parts: answer.parts });
      }
    };
    try {
      for await (const event of this.#handle) {
        answer.take(event);
        if (!isFrameDue) void nextFrame().then(paint);
        isFrameDue = true;
      }
      const response = await this.#handle.final();
      this.#set({ status: "ended", parts: partsOf(response), response });
    } catch (error) {
      this.#set({ status: "failed", parts: answer.parts, error: error as Error });
    }
  }

  #set(snapshot: ResponseSnapshot): void {
    this.#snapshot = snapshot;
    for (const listener of [...this.#listeners]) listener();
  }
}
