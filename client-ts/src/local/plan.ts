/** Plans the load of a model: what it needs, and whether this browser has it. Loads nothing. */

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
  /** The size of the file. */
  bytes: number;
  /** The number of bytes that must be downloaded; 0: the whole file is stored. */
  downloadBytes: number;
  /** Approximate memory of the loaded model: weights, keys and values, the runtime. */
  memoryBytes: number;
  /** The number of bytes that this origin may still store; `undefined` if the browser does not report it. */
  storageFreeBytes: number | undefined;
  /** `true`: the file survives a reload. */
  kept: boolean;
  contextLength: number;
  /** The reason why the model should not be loaded without the user's consent. Empty: it can be loaded. */
  problems: readonly LocalProblem[];
}

/** The memory of the runtime besides weights, keys and values. */
const RUNTIME_BYTES = 200 << 20;
/** Keys and values of one token, for each byte of weights: for the default model 46 KB of f32. */
const KV_SHARE = 1 / 2048;
const MAX_THREADS = 8;

/**
 * Chooses backend and number of threads. `gpu`: `undefined` accepts a hardware adapter, `true` any adapter, `false`
 * none.
 */
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
  /** `true`: the server could not be reached. */
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
    if (connection?.saveData)
      add("save_data", `The browser's data saver is on, and the model is a download of ${mb(downloadBytes)}.`);
    if (weights.kept && storageFreeBytes !== undefined && storageFreeBytes < downloadBytes) {
      add("storage", `The model needs ${mb(downloadBytes)} of storage, and ${mb(storageFreeBytes)} are free.`);
    }
  }
  if (deviceMemory !== undefined && memoryBytes > (deviceMemory * 2 ** 30) / 2) {
    add("memory", `The model needs about ${mb(memoryBytes)} of memory, and this device has ${deviceMemory} GB.`);
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
