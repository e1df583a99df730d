import { mkdtemp, rm } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { build } from "vite";
import type { LocalPage } from "./local/page.ts";
import { open } from "./support.ts";

export const MODELS = process.env["CAUDAL_MODEL_DIR"] ?? join(homedir(), ".cache/caudal/models");
export const WEIGHTS = join(MODELS, "SmolLM2-135M-Instruct.Q4_1.gguf");

/** Builds the test page of the engine in the browser. */
export async function buildLocalPage(): Promise<{ folder: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "caudal-local-"));
  const root = new URL("local", import.meta.url).pathname;
  await build({
    root,
    logLevel: "error",
    build: { outDir: folder, emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
  });
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Opens the page, and waits until it could open without a server. */
export async function openLocal(url: string): Promise<Page> {
  const page = await open(url);
  await untilReady(page);
  // The reload fetches all files through the service worker, which stores them.
  await page.reload();
  await untilReady(page);
  return page;
}

export async function untilReady(page: Page): Promise<void> {
  await page.waitForSelector("html[data-ready]", { state: "attached" });
}

declare global {
  /** The scope of the page under test. */
  var page: LocalPage;
}
