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

/** Has the browser store what was imported just now, so that the engine starts without the server too. */
export function cacheEngine(): Promise<void> {
  return cacheAssets([new URL(wasm, location.href).href]);
}
