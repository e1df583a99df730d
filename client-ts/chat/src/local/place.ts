/** Decides whether a turn runs on the server or in this browser. Owns the browser's engine and imports it at its first use. */

import {
  type CaudalClient,
  CaudalError,
  type ConnectionState,
  type FollowOptions,
  type InputItem,
  type ResponseCreateParams,
  type ResponseHandle,
} from "caudal-client";
import type { LocalEngine, LocalPlan, LocalRun, LocalState, Policy } from "caudal-client/local";
import { t } from "../i18n.ts";
import type { ChatStorage } from "../storage.ts";
import type { Engine } from "./engine.ts";

type Parts = typeof import("./engine.ts");

export interface PlaceState {
  readonly engine: LocalState;
  /** `true`: the model's file is stored in this browser. */
  readonly isStored: boolean;
  /** `true`: the page has no connection to the server, and its last attempt failed. */
  readonly isOffline: boolean;
}

export interface PlaceNeeds {
  /** Imports the engine. `undefined` in the element, which has no engine. */
  load: (() => Promise<Parts>) | undefined;
  client(): CaudalClient;
  policy(): Policy;
  /** Stores across reloads whether the model's file is in this browser. */
  memory: Pick<ChatStorage, "localModel" | "saveLocalModel">;
}

export interface Asked extends FollowOptions {
  history: readonly InputItem[];
}

export interface Placed {
  where: "server" | "browser";
  response: ResponseHandle;
}

/** The longest wait for the first state of the connection. */
const FIRST_STATE_MS = 4_000;

export class Place {
  #state: PlaceState;
  readonly #needs: PlaceNeeds;
  readonly #listeners = new Set<() => void>();
  #parts: Promise<Parts> | undefined;
  #kept: Promise<void> | undefined;
  #engine: (Engine & { client: CaudalClient }) | undefined;
  #loading = new AbortController();
  #resolveFirstState: () => void = () => undefined;
  readonly #firstState = new Promise<void>((resolve) => {
    this.#resolveFirstState = resolve;
  });

  constructor(needs: PlaceNeeds) {
    this.#needs = needs;
    this.#state = { engine: { status: "idle" }, isStored: needs.memory.localModel() === "stored", isOffline: false };
  }

  /** Whether this page can run a model at all. */
  get exists(): boolean {
    return this.#needs.load !== undefined;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): PlaceState => this.#state;

  /** Receives the state of the connection to the server. */
  connection({ status }: ConnectionState): void {
    if (status === "idle" || status === "connecting") return;
    this.#set({ isOffline: status === "waiting" || status === "failed" || status === "closed" });
    this.#resolveFirstState();
    // The files are stored once for each load of the page, because a newer page has other files.
    if (this.#state.isStored && !this.#state.isOffline) this.#keepFiles();
  }

  /** Whether the next turn runs here without asking the server. */
  async isHere(): Promise<boolean> {
    const policy = this.#needs.policy();
    if (!this.exists || policy === "server") return false;
    if (policy === "local") return true;
    if (!this.#state.isStored) return false;
    await Promise.race([this.#firstState, new Promise((resolve) => setTimeout(resolve, FIRST_STATE_MS))]);
    return this.#state.isOffline;
  }

  /** Creates a response at the server, or lets the router choose if the policy is `auto` and the engine is loaded. */
  async create(params: ResponseCreateParams, asked: Asked): Promise<Placed> {
    const isChoice = this.#needs.policy() === "auto" && this.#state.engine.status === "ready";
    if (isChoice) return (await this.#open()).router.create(params, asked);
    return { where: "server", response: this.#needs.client().responses.create(params, asked) };
  }

  /** Returns the loaded engine. If it must be loaded first, calls `onLoad` with the loaded fraction. */
  async engine(onLoad: (part: number) => void): Promise<LocalEngine> {
    if (!this.#state.isStored) throw new CaudalError(t("notLoaded"));
    const { local } = await this.#open();
    if (local.state.status === "ready") return local;
    onLoad(0);
    const stop = local.onStateChange((state) => {
      if (state.status === "loading") onLoad(state.progress.loadedBytes / state.progress.totalBytes);
    });
    try {
      await this.load(true);
    } finally {
      stop();
    }
    return local;
  }

  /** Finds a run of this browser that has not joined its conversation on the server. */
  async run(id: string): Promise<LocalRun | undefined> {
    const { local } = await this.#open();
    return [...(await local.interrupted()), ...(await local.waiting())].find((run) => run.id === id);
  }

  /** Sends the turns of this browser to the server, in order and each once. Ends an interrupted run that no turn shows. */
  async join(isShown: (run: LocalRun) => boolean): Promise<readonly LocalRun[]> {
    if (this.#needs.memory.localModel() === undefined) return [];
    const { local } = await this.#open();
    for (const run of await local.interrupted()) if (!isShown(run)) await local.giveUp(run);
    return local.join();
  }

  async discard(id: string): Promise<void> {
    await (await this.#open()).local.discard(id);
  }

  async newConversation(): Promise<string> {
    return (await this.#import()).newLocalConversation();
  }

  /** Counts the tokens of a request's prompt: here if the model is loaded, else at the server. */
  async countTokens(params: ResponseCreateParams, history: readonly InputItem[]): Promise<number> {
    const { engine } = this.#state;
    if (engine.status === "ready") {
      const { conversation: _, ...rest } = params;
      return (await this.#open()).local.countTokens(rest, { history });
    }
    return this.#needs.client().responses.countTokens(params);
  }

  /** Runs `work` in one tab of the browser at a time. */
  exclusively<T>(key: string, work: () => Promise<T>): Promise<T> {
    return navigator.locks ? navigator.locks.request(`caudal-turn-${key}`, work) : work();
  }

  async plan(): Promise<LocalPlan> {
    return (await this.#open()).local.plan();
  }

  /** Downloads and loads the model. `anyway`: in spite of the plan's problems. */
  async load(anyway = false): Promise<void> {
    const { local } = await this.#open();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    try {
      await local.load({ signal, anyway });
      this.#remember(true);
      this.#keepFiles();
    } catch (error) {
      // The fetched bytes stay stored, so a later load fetches only the rest.
      if (!signal.aborted) throw error;
      this.#set({ engine: { status: "idle" } });
    }
  }

  cancelLoad(): void {
    this.#loading.abort();
  }

  async unload(): Promise<void> {
    await this.#engine?.local.unload();
  }

  async delete(): Promise<void> {
    await (await this.#open()).local.delete();
    this.#remember(false);
  }

  /** Stores the engine's files for use without a server, once. */
  #keepFiles(): void {
    this.#kept ??= this.#import()
      .then(({ cacheEngine }) => cacheEngine())
      .catch(() => {
        // The next connection tries again.
        this.#kept = undefined;
      });
  }

  #import(): Promise<Parts> {
    const { load } = this.#needs;
    if (!load) return Promise.reject(new CaudalError("This page has no engine."));
    this.#parts ??= load().catch((error: unknown) => {
      this.#parts = undefined;
      throw error;
    });
    return this.#parts;
  }

  async #open(): Promise<Engine> {
    const { newEngine } = await this.#import();
    const client = this.#needs.client();
    if (this.#engine?.client !== client) {
      void this.#engine?.local.unload();
      const engine = newEngine(client);
      this.#engine = { ...engine, client };
      engine.local.onStateChange((state) => {
        if (this.#engine?.local === engine.local) this.#set({ engine: state });
      });
    }
    return this.#engine;
  }

  #remember(isStored: boolean): void {
    this.#needs.memory.saveLocalModel(isStored ? "stored" : "deleted");
    this.#set({ isStored });
  }

  #set(change: Partial<PlaceState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }
}
