/** One model of the server, run in this page. Owns what is loaded; the parts know what to do with it. */

import type { Wllama } from "@wllama/wllama";
import type { CaudalClient } from "../client.ts";
import { CaudalError, ConnectionError, DetachedError, SteerError } from "../errors.ts";
import { ResponseHandle, type RunSource } from "../handle.ts";
import { newId } from "../ids.ts";
import type { FollowOptions, InputItem, ResponseCreateParams } from "../index.ts";
import { lazy } from "../lazy.ts";
import { Run } from "../run.ts";
import { LocalRefusedError, LocalUnsupportedError } from "./errors.ts";
import { openFolder } from "./folder.ts";
import type * as generate from "./generate.ts";
import { canContinue, isLocalConversation, itemsOf, Journal, type LocalRun, lockOf } from "./journal.ts";
import { type Device, deviceOf, type LocalPlan, planOf } from "./plan.ts";
import { type Manifest, Weights } from "./weights.ts";

/** The most tokens that prompt and answer may have together, where the page sets no bound. */
const CONTEXT = 4096;

export interface LocalOptions {
  /** Whose server has the weights, and the conversations that local turns join. */
  client: CaudalClient;
  /** An id or alias; without it the server's first model. */
  model?: string;
  /** Address of `wllama.wasm`, on the page's own origin. */
  wasm: string | URL;
  /** Tokens that prompt and answer may have together; at most the model's. Default 4096. */
  contextLength?: number;
  /** Threads. A page that is not cross-origin isolated has one. Default: one less than there are cores, at most 8. */
  threads?: number;
  /** `false` never uses WebGPU, `true` also an adapter that is software. Default: an adapter that is hardware. */
  gpu?: boolean;
}

export interface LocalProgress {
  phase: "download" | "start";
  loadedBytes: number;
  totalBytes: number;
  elapsedMs: number;
  /** `undefined` before there is a rate. */
  remainingMs: number | undefined;
}

export interface LocalInfo extends Device {
  model: string;
  bytes: number;
  contextLength: number;
}

export type LocalState =
  | { status: "idle" }
  | { status: "loading"; progress: LocalProgress }
  | { status: "ready"; info: LocalInfo }
  | { status: "failed"; error: Error };

export interface LoadOptions {
  onProgress?: (progress: LocalProgress) => void;
  /** Aborting it ends the download; what is fetched stays. */
  signal?: AbortSignal;
  /** Loads it in spite of the plan's problems. */
  anyway?: boolean;
}

export interface LocalRunOptions extends FollowOptions {
  /**
   * The items before the input. If it is absent, the items of the conversation are read from the server.
   */
  history?: readonly InputItem[];
  /** A response of the server in whose place this one stands when it joins the conversation. */
  replaces?: string;
}

interface Loaded {
  wllama: Wllama;
  generate: typeof generate;
  manifest: Manifest;
  info: LocalInfo;
}

export class LocalEngine {
  readonly #options: LocalOptions;
  readonly #journal: Journal = new Journal();
  readonly #weights: Promise<Weights>;
  readonly #listeners = new Set<(state: LocalState) => void>();
  #state: LocalState = { status: "idle" };
  #loading: Promise<Loaded> | undefined;
  #loaded: Loaded | undefined;
  #running = 0;

  constructor(options: LocalOptions) {
    this.#options = options;
    this.#weights = openFolder("weights").then((folder) => new Weights(options.client, folder, options.model));
  }

  get state(): LocalState {
    return this.#state;
  }

  /** Calls back at each change. The returned function ends that. */
  onStateChange(listener: (state: LocalState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tells what loading needs, and what speaks against it. Rejects if the server does not share the model's file. */
  async plan(): Promise<LocalPlan> {
    return (await this.#planned()).plan;
  }

  /** Fetches what is not stored yet, and loads it. A call while it loads waits for the same. */
  async load(options: LoadOptions = {}): Promise<LocalInfo> {
    this.#loading ??= this.#load(options).catch((error: Error) => {
      this.#loading = undefined;
      this.#enter({ status: "failed", error });
      throw error;
    });
    return (await this.#loading).info;
  }

  /** Frees the memory. Runs end as cancelled. */
  async unload(): Promise<void> {
    const loaded = this.#loaded;
    this.#loaded = this.#loading = undefined;
    await loaded?.wllama.exit();
    this.#enter({ status: "idle" });
  }

  /** Frees the memory, and the storage. */
  async delete(): Promise<void> {
    await this.unload();
    await (await this.#weights).delete();
  }

  /**
   * Asks for a response, here. Returns at once; errors come out of the handle: `LocalUnsupportedError` names a field that the
   * engine does not have.
   */
  create(params: ResponseCreateParams, options: LocalRunOptions = {}): ResponseHandle {
    const history = options.history;
    return this.#follow(newRun(params, options.replaces), options, history && (() => Promise.resolve(history)));
  }

  /** Goes on with an answer that the server began and the network cut. Its events begin with the text so far. */
  handOver(
    cut: { responseId: string; text: string },
    params: ResponseCreateParams,
    options: LocalRunOptions = {},
  ): ResponseHandle {
    const run: LocalRun = { ...newRun(params, cut.responseId), text: cut.text, continues: true };
    const { history } = options;
    return this.#follow(run, options, history && (() => Promise.resolve(history)));
  }

  /** Runs that a reload cut, the oldest first. */
  interrupted(): Promise<readonly LocalRun[]> {
    return this.#journal.interrupted();
  }

  /** Goes on with such a run from its text, or from its begin where its output is held to a form. */
  resume(run: LocalRun, options: FollowOptions = {}): ResponseHandle {
    const text = canContinue(run.params) ? run.text : "";
    return this.#follow({ ...run, text }, options, () => Promise.resolve(run.history));
  }

  /** Gives an interrupted run up: what it has said so far is its answer. */
  async giveUp(run: LocalRun): Promise<void> {
    const content = [{ type: "output_text" as const, text: run.text, annotations: [], logprobs: [] }];
    const answer = {
      type: "message" as const,
      id: newId("msg"),
      status: "incomplete" as const,
      role: "assistant" as const,
    };
    await this.#over({ ...run, status: "ended", output: run.text === "" ? [] : [{ ...answer, content }] });
  }

  /** Takes a turn that waits to join out: it is deleted, and joins nothing. */
  async discard(id: string): Promise<void> {
    const { discard } = await lazy(() => import("./join.ts"));
    await discard(this.#journal, id);
  }

  /** Turns that wait to join their conversation on the server. */
  async waiting(): Promise<readonly LocalRun[]> {
    return (await this.#journal.all()).filter((run) => run.status === "ended");
  }

  /** Brings turns into their conversations on the server, in order and once, whichever tab asks. Tells which. */
  join(): Promise<readonly LocalRun[]> {
    const work = async (): Promise<readonly LocalRun[]> => {
      const { join } = await lazy(() => import("./join.ts"));
      return join(this.#options.client, this.#journal);
    };
    return navigator.locks ? navigator.locks.request("caudal-join", work) : work();
  }

  /** Counts the tokens of the prompt of such a request: by the model here if it is loaded and free, else by the server. */
  async countTokens(params: ResponseCreateParams, { history = [] }: LocalRunOptions = {}): Promise<number> {
    const loaded = this.#loaded;
    if (!loaded || this.#running > 0) {
      return this.#options.client.responses.countTokens({ ...params, input: [...history, ...itemsOf(params)] });
    }
    return loaded.generate.countTokens(loaded, params, history);
  }

  async #planned(): Promise<{ plan: LocalPlan; manifest: Manifest }> {
    const { gpu, threads, contextLength = CONTEXT } = this.#options;
    const weights = await this.#weights;
    const asked = await weights.asked().catch(async (error: Error) => {
      const stored = error instanceof ConnectionError ? await weights.stored() : undefined;
      if (!stored) throw error;
      return { ...stored, offline: true };
    });
    const { offline, ...manifest } = { offline: false, ...asked };
    const device = await deviceOf(gpu, threads);
    const length = Math.min(contextLength, manifest.model.context_length);
    return { plan: await planOf({ ...device, manifest, contextLength: length, offline }, weights), manifest };
  }

  async #load({ onProgress, signal, anyway = false }: LoadOptions): Promise<Loaded> {
    const begun = Date.now();
    const { plan, manifest } = await this.#planned();
    if (plan.problems.length > 0 && !anyway) throw new LocalRefusedError(plan);
    const { bytes, backend, threads, contextLength } = plan;
    const stored = bytes - plan.downloadBytes;
    const tell = (phase: LocalProgress["phase"], loadedBytes: number): void => {
      const elapsedMs = Date.now() - begun;
      const rate = (loadedBytes - stored) / elapsedMs;
      const remainingMs = rate > 0 ? Math.round((bytes - loadedBytes) / rate) : undefined;
      const progress = { phase, loadedBytes, totalBytes: bytes, elapsedMs, remainingMs };
      this.#enter({ status: "loading", progress });
      onProgress?.(progress);
    };
    tell("download", stored);
    const weights = await this.#weights;
    // Not a copy beside it in the browser's cache, and not to be evicted with it.
    await navigator.storage?.persist?.().catch(() => false);
    const blob = await weights.fetch(manifest, (loaded) => tell("download", loaded), signal);
    tell("start", bytes);
    const { start, generate } = await lazy(() => import("./start.ts"));
    const wllama = await start(blob, this.#options.wasm, { backend, threads, contextLength });
    const isThreaded = wllama.isMultithread();
    const info = { model: plan.model, bytes, contextLength, backend, threads: isThreaded ? wllama.getNumThreads() : 1 };
    this.#loaded = { wllama, generate, manifest, info };
    this.#enter({ status: "ready", info });
    return this.#loaded;
  }

  #follow(
    record: LocalRun,
    options: FollowOptions,
    history: (() => Promise<readonly InputItem[]>) | undefined,
  ): ResponseHandle {
    const stop = new AbortController();
    const source: RunSource = {
      cancel: () => {
        stop.abort();
        return "sent";
      },
      carrier: () => {
        throw new SteerError("steering_not_supported", "The engine in the browser takes no input while it answers.");
      },
    };
    const run = new Run("{}", options);
    const { signal, cancelSignal } = options;
    const detach = (): void => run.fail(new DetachedError("The caller stopped following."));
    const ended = new AbortController();
    signal?.addEventListener("abort", detach, { signal: ended.signal });
    if (signal?.aborted) detach();
    const cancel = cancelSignal ? AbortSignal.any([stop.signal, cancelSignal]) : stop.signal;
    const work = async (): Promise<void> => {
      const given = await (history?.() ?? this.#history(record.conversation));
      await this.#answer({ ...record, history: given }, run, cancel);
    };
    const locked = navigator.locks ? navigator.locks.request(lockOf(record), work) : work();
    void locked.catch((error: Error) => run.fail(error)).finally(() => ended.abort());
    return new ResponseHandle(run, source);
  }

  async #answer(record: LocalRun, run: Run, cancel: AbortSignal): Promise<void> {
    const loaded = this.#loaded;
    if (!loaded) throw new CaudalError("The model is not loaded in this browser.");
    const { params, text } = record;
    if (text !== "" && !canContinue(params)) {
      throw new LocalUnsupportedError("text.format", "an answer that is held to a form cannot go on from its text");
    }
    const { answer, prepare } = loaded.generate;
    const prepared = await prepare(loaded, record);
    await this.#journal.save(record);
    this.#running++;
    const response = await answer({
      ...{ ...loaded, ...prepared, record, run, cancel },
      save: (said) => this.#journal.save({ ...record, text: said }, true),
      free: () => this.#running--,
    });
    const output = response.status === "failed" ? [] : response.output;
    await this.#over({ ...record, status: "ended", text: "", output });
  }

  /** A turn of a conversation waits to join; another run is not needed any more. */
  async #over(record: LocalRun): Promise<void> {
    if (record.conversation === undefined) await this.#journal.forget(record);
    else await this.#journal.save(record);
  }

  /** A conversation's items on the server, and the turns that have not joined them. */
  async #history(conversation: string | undefined): Promise<readonly InputItem[]> {
    if (conversation === undefined) return [];
    const items: InputItem[] = [];
    if (!isLocalConversation(conversation)) {
      const listed = this.#options.client.conversations.items.all(conversation, { order: "asc" });
      for await (const item of listed) items.push(item as InputItem);
    }
    const turns = (await this.waiting()).filter((run) => run.conversation === conversation);
    return [...items, ...turns.flatMap((run) => [...itemsOf(run.params), ...(run.output as readonly InputItem[])])];
  }

  #enter(state: LocalState): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) listener(state);
  }
}

function newRun(params: ResponseCreateParams, replaces: string | undefined): LocalRun {
  const { conversation } = params;
  return {
    ...{ id: newId("resp"), createdAt: Date.now(), status: "running", text: "", history: [], output: [] },
    ...{ params, conversation: typeof conversation === "string" ? conversation : conversation?.id },
    ...{ replaces, continues: false },
  };
}
