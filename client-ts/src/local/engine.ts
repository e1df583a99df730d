/** Runs one model of the server in this page. Owns the loaded model and its state. */

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

/** The default of `contextLength`. */
const CONTEXT = 4096;

export interface LocalOptions {
  /** The client of the server that has the weights, and the conversations that local turns join. */
  client: CaudalClient;
  /** An id or alias. Default: the server's first model. */
  model?: string;
  /** Address of `wllama.wasm`, on the page's own origin. */
  wasm: string | URL;
  /** The number of tokens that prompt and answer may have together, at most the model's context length. Default 4096. */
  contextLength?: number;
  /**
   * The number of threads. A page that is not cross-origin isolated has one. Default: one less than the number of
   * cores, at most 8.
   */
  threads?: number;
  /** `false` never uses WebGPU; `true` uses it even with a software adapter. Default: only with a hardware adapter. */
  gpu?: boolean;
}

export interface LocalProgress {
  phase: "download" | "start";
  loadedBytes: number;
  totalBytes: number;
  elapsedMs: number;
  /** `undefined` until the download rate is known. */
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
  /** Aborting this signal ends the download; fetched parts stay stored. */
  signal?: AbortSignal;
  /** Loads the model in spite of the plan's problems. */
  anyway?: boolean;
}

export interface LocalRunOptions extends FollowOptions {
  /**
   * The items before the input. If it is absent, the items of the conversation are read from the server.
   */
  history?: readonly InputItem[];
  /** The id of a response of the server that this one replaces when it joins the conversation. */
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

  /** Calls `listener` at each change of the state. The returned function removes the listener. */
  onStateChange(listener: (state: LocalState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Resolves to what loading needs, with the problems that speak against it. Rejects if the server does not share the
   * model's file.
   */
  async plan(): Promise<LocalPlan> {
    return (await this.#planned()).plan;
  }

  /**
   * Downloads the parts of the file that are not stored yet, and loads the model. A call during a load waits for that
   * load.
   */
  async load(options: LoadOptions = {}): Promise<LocalInfo> {
    this.#loading ??= this.#load(options).catch((error: Error) => {
      this.#loading = undefined;
      this.#enter({ status: "failed", error });
      throw error;
    });
    return (await this.#loading).info;
  }

  /** Frees the memory. Running responses end as cancelled. */
  async unload(): Promise<void> {
    const loaded = this.#loaded;
    this.#loaded = this.#loading = undefined;
    await loaded?.wllama.exit();
    this.#enter({ status: "idle" });
  }

  /** Frees the memory and deletes the stored file. */
  async delete(): Promise<void> {
    await this.unload();
    await (await this.#weights).delete();
  }

  /**
   * Creates a response in this page. Returns at once; the handle reports errors. `LocalUnsupportedError` names a field
   * that the engine does not support.
   */
  create(params: ResponseCreateParams, options: LocalRunOptions = {}): ResponseHandle {
    const history = options.history;
    return this.#follow(newRun(params, options.replaces), options, history && (() => Promise.resolve(history)));
  }

  /**
   * Continues an answer that the server began and the network cut. The events of the response begin with the text so
   * far.
   */
  handOver(
    cut: { responseId: string; text: string },
    params: ResponseCreateParams,
    options: LocalRunOptions = {},
  ): ResponseHandle {
    const run: LocalRun = { ...newRun(params, cut.responseId), text: cut.text, continues: true };
    const { history } = options;
    return this.#follow(run, options, history && (() => Promise.resolve(history)));
  }

  /** Lists the runs that a reload cut, oldest first. */
  interrupted(): Promise<readonly LocalRun[]> {
    return this.#journal.interrupted();
  }

  /** Continues an interrupted run from its text. A run with tools or an output format begins again instead. */
  resume(run: LocalRun, options: FollowOptions = {}): ResponseHandle {
    const text = canContinue(run.params) ? run.text : "";
    return this.#follow({ ...run, text }, options, () => Promise.resolve(run.history));
  }

  /** Ends an interrupted run; its text so far is its answer. */
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

  /** Deletes a turn that waits to join its conversation. */
  async discard(id: string): Promise<void> {
    const { discard } = await lazy(() => import("./join.ts"));
    await discard(this.#journal, id);
  }

  /** Lists the turns that wait to join their conversation on the server. */
  async waiting(): Promise<readonly LocalRun[]> {
    return (await this.#journal.all()).filter((run) => run.status === "ended");
  }

  /**
   * Appends the waiting turns to their conversations on the server, in order and each once, even if several tabs call
   * this method. Resolves to the joined turns.
   */
  join(): Promise<readonly LocalRun[]> {
    const work = async (): Promise<readonly LocalRun[]> => {
      const { join } = await lazy(() => import("./join.ts"));
      return join(this.#options.client, this.#journal);
    };
    return navigator.locks ? navigator.locks.request("caudal-join", work) : work();
  }

  /**
   * Counts the tokens of a request's prompt: with the model in this page if it is loaded and idle, else at the server.
   */
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
    // Asks the browser not to evict the stored file.
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
        throw new SteerError(
          "steering_not_supported",
          "The engine in the browser takes no input while an answer runs.",
        );
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
      throw new LocalUnsupportedError(
        "text.format",
        "an answer with tools or an output format cannot continue from its text",
      );
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

  /** Stores an ended turn of a conversation until it joins; forgets a run without a conversation. */
  async #over(record: LocalRun): Promise<void> {
    if (record.conversation === undefined) await this.#journal.forget(record);
    else await this.#journal.save(record);
  }

  /** Resolves to a conversation's items on the server, followed by the turns that have not joined yet. */
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
