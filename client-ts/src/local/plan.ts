/** Tells what loading a model here needs, and whether this browser has it. Loads nothing. */

import type { Manifest, Weights } from "./weights.ts";

export interface Device {
  backend: "webgpu" | "wasm";
  threads: number;
}

export interface LocalProblem {
  code: "save_data" | "storage" | "memory" | "offline";
  message: string;
}

export interface LocalPlan extends Device {
  model: string;
  quantisation: string | null;
  /** Size of the file. */
  bytes: number;
  /** Bytes that have to be fetched; 0: all of the file is stored. */
  downloadBytes: number;
  /** About what it takes while it is loaded: weights, keys and values, the runtime. */
  memoryBytes: number;
  /** Bytes that this origin may still store; `undefined` if the browser does not tell. */
  storageFreeBytes: number | undefined;
  /** True if the file stays after a reload. */
  kept: boolean;
  contextLength: number;
  /** Why it should not be loaded without asking. Empty: it can be. */
  problems: readonly LocalProblem[];
}

/** Bytes that the runtime takes beside weights, keys and values. */
const RUNTIME_BYTES = 200 << 20;
/** Keys and values of one token, for each byte of weights: for the default model 46 KB of f32. */
const KV_SHARE = 1 / 2048;
const MAX_THREADS = 8;

/** `gpu`: `undefined` takes an adapter that is hardware, `true` any, `false` none. */
export async function deviceOf(gpu: boolean | undefined, threads: number | undefined): Promise<Device> {
  const most = Math.min(MAX_THREADS, Math.max(1, (navigator.hardwareConcurrency ?? 1) - 1));
  return {
    backend: gpu !== false && (await hasAdapter(gpu === true)) ? "webgpu" : "wasm",
    threads: globalThis.crossOriginIsolated ? (threads ?? most) : 1,
  };
}

interface Gpu {
  requestAdapter(): Promise<{ isFallbackAdapter?: boolean; info?: { isFallbackAdapter?: boolean } } | null>;
}

async function hasAdapter(software: boolean): Promise<boolean> {
  const { gpu } = navigator as { gpu?: Gpu };
  const adapter = await gpu?.requestAdapter().catch(() => null);
  return !!adapter && (software || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

export interface Needs extends Device {
  manifest: Manifest;
  contextLength: number;
  /** No server was reached. */
  offline: boolean;
}

export async function planOf(needs: Needs, weights: Weights): Promise<LocalPlan> {
  const { manifest, contextLength, backend, threads } = needs;
  const { bytes, model } = manifest;
  const downloadBytes = bytes - (await weights.storedBytes(manifest));
  const estimate = await navigator.storage?.estimate?.().catch(() => undefined);
  const storageFreeBytes = estimate?.quota === undefined ? undefined : estimate.quota - (estimate.usage ?? 0);
  const memoryBytes = Math.round(bytes * (1 + contextLength * KV_SHARE) + RUNTIME_BYTES);
  const problems: LocalProblem[] = [];
  const { connection, deviceMemory } = navigator as { connection?: { saveData?: boolean }; deviceMemory?: number };
  const add = (code: LocalProblem["code"], message: string): void => void problems.push({ code, message });
  if (downloadBytes > 0) {
    if (needs.offline) add("offline", "The model is not stored here, and the server cannot be reached.");
    if (connection?.saveData) add("save_data", `The browser saves data, and the model takes ${mb(downloadBytes)}.`);
    if (weights.kept && storageFreeBytes !== undefined && storageFreeBytes < downloadBytes) {
      add("storage", `The model takes ${mb(downloadBytes)}, and there is room for ${mb(storageFreeBytes)}.`);
    }
  }
  if (deviceMemory !== undefined && memoryBytes > (deviceMemory * 2 ** 30) / 2) {
    add("memory", `The model takes about ${mb(memoryBytes)} of memory, and this device has ${deviceMemory} GB.`);
  }
  return {
    model: model.id,
    quantisation: model.quantisation ?? null,
    ...{ bytes, downloadBytes, memoryBytes, storageFreeBytes, kept: weights.kept },
    ...{ backend, threads, contextLength, problems },
  };
}

function mb(bytes: number): string {
  return `${Math.ceil(bytes / 1e6)} MB`;
}
