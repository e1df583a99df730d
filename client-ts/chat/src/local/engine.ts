/** The engine in the browser, and what it needs of the page. Loaded when it is used first. */

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

/** Has the browser store every file of the page, so that the engine starts without the server too. */
export async function cacheEngine(): Promise<void> {
  const files = (await (await fetch("./assets.json")).json()) as Record<string, { file: string }>;
  await cacheAssets(Object.values(files).map(({ file }) => new URL(file, document.baseURI).href));
}
