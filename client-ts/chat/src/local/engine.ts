/** Connects the engine in the browser to the page. Loaded at the first use. */

import wasm from "@wllama/wllama/esm/wasm/wllama.wasm?url";
import type { CaudalClient } from "caudal-client";
import { LocalEngine, newLocalConversation, Router } from "caudal-client/local";
import { cacheAssets } from "../offline.ts";

export { newLocalConversation };

export interface Engine {
  readonly local: LocalEngine;
  readonly router: Router;
}

export function newEngine(client: CaudalClient): Engine {
  const local = new LocalEngine({ client, wasm });
  return { local, router: new Router({ client, local, policy: "auto" }) };
}

/** Stores every file of the page in the browser, so that the engine also starts without the server. */
export async function cacheEngine(): Promise<void> {
  const files = (await (await fetch("./assets.json")).json()) as Record<string, { file: string }>;
  await cacheAssets(Object.values(files).map(({ file }) => new URL(file, document.baseURI).href));
}
