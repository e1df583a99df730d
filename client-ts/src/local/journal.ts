/** Stores the runs of this browser that a reload may cut, or that have not joined the server's conversation yet. */

import { newId } from "../ids.ts";
import type { InputItem, OutputItem, ResponseCreateParams } from "../index.ts";
import { type Folder, openFolder, readJson } from "./folder.ts";

export interface LocalRun {
  /** The response's id. */
  id: string;
  /** The run's conversation; its id begins with `local_` while the server does not know the conversation. */
  conversation: string | undefined;
  /** The id of the conversation before the server assigned one. */
  localConversation?: string;
  /** Milliseconds, as `Date.now()` counts. */
  createdAt: number;
  status: "running" | "ended";
  /** The text so far. */
  text: string;
  params: ResponseCreateParams;
  history: readonly InputItem[];
  output: readonly OutputItem[];
  /** The id of a response of the server that this one replaces. */
  replaces: string | undefined;
  /** `true`: the run continues the text of the response that it replaces. */
  continues: boolean;
}

const SAVE_MS = 250;
const LOCAL = "local";

export class Journal {
  readonly #folder: Promise<Folder | undefined>;
  /** Writes run one after the other, so that the last one wins. */
  #writes: Promise<unknown> = Promise.resolve();
  #savedAt = 0;

  constructor(folder: Promise<Folder | undefined> = openFolder("runs")) {
    this.#folder = folder;
  }

  /** Stores a run. With `soon`, skips the write if the last one was less than `SAVE_MS` ago. */
  save(run: LocalRun, soon = false): Promise<unknown> {
    if (soon && Date.now() - this.#savedAt < SAVE_MS) return this.#writes;
    this.#savedAt = Date.now();
    const text = JSON.stringify(run);
    this.#writes = this.#writes.then(async () => (await this.#folder)?.write(run.id, text)).catch(() => undefined);
    return this.#writes;
  }

  forget(run: LocalRun): Promise<unknown> {
    this.#writes = this.#writes.then(async () => (await this.#folder)?.remove(run.id)).catch(() => undefined);
    return this.#writes;
  }

  /** Lists all runs, oldest first. */
  async all(): Promise<readonly LocalRun[]> {
    await this.#writes;
    const folder = await this.#folder;
    const names = (await folder?.names()) ?? [];
    const runs = await Promise.all(names.map((name) => readJson<LocalRun>(folder, name)));
    return runs.filter((run) => run !== undefined).sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
  }

  /** Lists the runs that have not ended and that no open page executes. */
  async interrupted(): Promise<readonly LocalRun[]> {
    const { held = [] } = (await navigator.locks?.query()) ?? {};
    const running = new Set(held.map(({ name }) => name));
    return (await this.all()).filter((run) => run.status === "running" && !running.has(lockOf(run)));
  }
}

/** Returns the name of the lock that a page holds while it executes the run. */
export function lockOf({ id }: LocalRun): string {
  return `caudal-run-${id}`;
}

/** Returns the items that a request adds to its conversation. */
export function itemsOf({ input }: ResponseCreateParams): readonly InputItem[] {
  return typeof input === "string" ? [{ role: "user", content: input }] : (input ?? []);
}

/** Returns whether an answer can continue from a part of its text. */
export function canContinue({ text, tools }: ResponseCreateParams): boolean {
  return !tools?.length && (text?.format ?? { type: "text" }).type === "text";
}

/** Makes an id for a conversation that begins without a server; `LocalEngine.join` creates the conversation there. */
export function newLocalConversation(): string {
  return newId(LOCAL);
}

export function isLocalConversation(id: string): boolean {
  return id.startsWith(`${LOCAL}_`);
}
