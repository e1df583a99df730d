/** A page with only the engine in the browser, which tests call. After its first visit it opens without a server. */

import wasm from "@wllama/wllama/esm/wasm/wllama.wasm?url";
import { CaudalClient, type ResponseCreateParams, type ResponseHandle } from "../../src/index.ts";
import { LocalEngine, type LocalOptions, Router } from "../../src/local/index.ts";

function engine(options: Partial<LocalOptions> = {}): LocalEngine {
  return new LocalEngine({ client, wasm, ...options });
}

const client = new CaudalClient({ url: location.origin, reconnect: { giveUpAfterMs: 3_000 } });
const local = engine();
const page = {
  client,
  local,
  engine,
  router: new Router({ client, local }),
  /** The text so far of each handle that is shown. */
  shown: [] as string[],
  /** Shows a handle's text as it comes. Resolves to the status of the response. */
  async show(handle: ResponseHandle): Promise<string> {
    const at = page.shown.push("") - 1;
    for await (const text of handle.text()) page.shown[at] += text;
    return (await handle.final()).status;
  },
  async say(params: ResponseCreateParams): Promise<string> {
    let text = "";
    for await (const piece of local.create(params).text()) text += piece;
    return text;
  },
};
export type LocalPage = typeof page;
(globalThis as unknown as { page: LocalPage }).page = page;
await navigator.serviceWorker.register("./worker.js");
await navigator.serviceWorker.ready;
document.documentElement.dataset["ready"] = "";
