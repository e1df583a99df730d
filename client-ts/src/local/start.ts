/** Starts llama.cpp in a worker. Loaded with the model, because the package that it imports is large. */

import { Wllama } from "@wllama/wllama";
import { ConnectionError, ProtocolError } from "../errors.ts";
import type { Device } from "./plan.ts";

export * as generate from "./generate.ts";

const ALL_LAYERS = 99_999;

export async function start(
  weights: Blob,
  wasm: string | URL,
  { backend, threads, contextLength }: Device & { contextLength: number },
): Promise<Wllama> {
  await assertReachable(wasm);
  const quiet = (): void => {};
  const wllama = new Wllama(
    { default: new URL(wasm, location.href).href },
    { suppressNativeLog: true, logger: { debug: quiet, log: quiet, warn: quiet, error: console.error } },
  );
  try {
    await wllama.loadModel([weights], {
      ...{ n_ctx: contextLength, n_threads: threads, n_gpu_layers: backend === "webgpu" ? ALL_LAYERS : 0 },
      // The engine handles one request at a time; an answer can continue from a part of its text.
      ...{ n_parallel: 1, jinja: true, prefill_assistant: true },
      // The server computes keys and values in f32, too.
      ...{ cache_type_k: "f32", cache_type_v: "f32", flash_attn: false },
    });
  } catch (error) {
    await wllama.exit();
    throw error;
  }
  return wllama;
}

/** Rejects if the engine's code cannot be fetched, for which the package would wait forever. */
async function assertReachable(wasm: string | URL): Promise<void> {
  const answer = await fetch(wasm).catch((cause: unknown) => {
    throw new ConnectionError("The engine's code cannot be fetched: network error.", { cause });
  });
  await answer.body?.cancel();
  if (!answer.ok)
    throw new ProtocolError(`The engine's code cannot be fetched from ${String(wasm)}: status ${answer.status}.`);
}
