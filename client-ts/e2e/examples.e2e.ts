/** The examples in a browser, on the real binary: send, stream, stop, reload in mid-stream, a second tab. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Server, scripted, startServer } from "../test/support/server.ts";
import { later, open, violations } from "./support.ts";

const EXAMPLES = new URL("../examples/", import.meta.url).pathname;
const STORY = { ...scripted(150, 60), "engine.max_running": 4 };
const answer = "[data-answer]";

let dist: string;

beforeAll(async () => {
  dist = await mkdtemp(join(tmpdir(), "caudal-examples-"));
});

afterAll(() => rm(dist, { recursive: true, force: true }));

async function serve(name: string, settings: Record<string, string | number> = STORY): Promise<Server> {
  const outDir = join(dist, name);
  const root = join(EXAMPLES, name);
  await build({ root, configFile: join(EXAMPLES, "vite.config.ts"), logLevel: "error", build: { outDir } });
  const server = await startServer({ "server.chat_dir": outDir, ...settings });
  later(() => server.stop());
  return server;
}

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits for so much of the last answer. */
async function untilText(page: Page, length: number): Promise<string> {
  const handle = await page.waitForFunction(
    ([selector, least]) => {
      // assistant-ui shows a dot while an answer comes.
      const shown = [...document.querySelectorAll(selector)].at(-1)?.textContent ?? "";
      const text = shown.replace("●", "").trim();
      return text.length >= least ? text : undefined;
    },
    [answer, length] as const,
    { timeout: 20_000 },
  );
  return String(await handle.jsonValue());
}

async function untilStatus(page: Page, ...statuses: string[]): Promise<void> {
  await page.waitForFunction(
    ([selector, wanted]) => {
      const last = [...document.querySelectorAll<HTMLElement>(selector)].at(-1);
      return wanted.includes(last?.dataset["status"] ?? "");
    },
    [answer, statuses] as const,
    { timeout: 20_000 },
  );
}

/** How many different lengths of the last answer are painted until it ends. */
async function paints(page: Page): Promise<number> {
  return page.evaluate(async (selector) => {
    const lengths = new Set<number>();
    for (let still = 0; still < 60; still++) {
      const { size } = lengths;
      lengths.add([...document.querySelectorAll(selector)].at(-1)?.textContent?.length ?? 0);
      if (lengths.size > size) still = 0;
      await new Promise(requestAnimationFrame);
    }
    return lengths.size;
  }, answer);
}

interface Example {
  name: string;
  /** Statuses that the last answer ends in. */
  over: string[];
  /** Answers on the page after one question. */
  isChat: boolean;
}

const PAGES: Example[] = [
  { name: "html", over: ["completed", "incomplete"], isChat: false },
  { name: "react", over: ["ended"], isChat: true },
  { name: "use-chat", over: ["ready"], isChat: true },
  { name: "assistant-ui", over: ["complete", "incomplete"], isChat: true },
];

describe.each(PAGES)("$name", ({ name, over, isChat }) => {
  test("streams, goes on after a reload and in a second tab, and stops", async () => {
    const { url } = await serve(name);
    const page = await open(url);
    await ask(page, "Tell me of a river.");
    const before = await untilText(page, 30);
    await page.waitForFunction(() => location.hash.length > 1);

    await page.reload();
    const after = await untilText(page, before.length + 30);
    expect(after.slice(0, before.length)).toBe(before);

    const second = await page.context().newPage();
    await second.goto(page.url());
    await untilText(second, after.length);
    expect(await paints(second)).toBeGreaterThan(5);
    await Promise.all([untilStatus(page, ...over), untilStatus(second, ...over)]);
    const [whole, theirs] = [await untilText(page, 1), await untilText(second, 1)];
    expect(theirs).toBe(whole);
    expect(whole.split(/\s+/).length).toBeGreaterThan(140);
    if (process.env["SCREENSHOTS"]) await page.screenshot({ path: `${process.env["SCREENSHOTS"]}/${name}.png` });

    await ask(page, "And another one.");
    if (isChat) await page.waitForFunction((selector) => document.querySelectorAll(selector).length > 1, answer);
    await untilText(page, 30);
    // The page grows under the pointer.
    await page.getByRole("button", { name: "Stop" }).dispatchEvent("click");
    await untilStatus(page, ...over);
    const stopped = await untilText(page, 1);
    expect(stopped.split(/\s+/).length).toBeLessThan(140);
    expect(await violations(page)).toEqual([]);
  });
});

test("react: reload while a question waits shows its place within a second, and it is answered", async () => {
  const server = await serve("react", { ...scripted(60, 40), "engine.max_running": 1 });
  const busy = fetch(`${server.url}/v1/responses`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ input: "in the way", background: true }),
  });
  await busy;
  const page = await open(server.url);
  await ask(page, "Tell me of a river.");
  await page.waitForSelector("text=/in line/");
  await page.reload();
  await page.waitForSelector("text=/in line/", { timeout: 1_000 });
  expect(await page.locator(answer).count()).toBe(1);
  await untilStatus(page, "ended");
  expect(await page.locator(answer).count()).toBe(1);
});

test("assistant-ui: edits and second answers are branches", async () => {
  const { url } = await serve("assistant-ui", scripted(8, 0));
  const page = await open(url);
  await ask(page, "one");
  await untilStatus(page, "complete");
  await ask(page, "two");
  await page.waitForFunction((selector) => document.querySelectorAll(selector).length === 2, answer);
  await untilStatus(page, "complete");
  await page.getByRole("button", { name: "Regenerate" }).last().click();
  await page.waitForSelector("text=/2 of 2/");
  await untilStatus(page, "complete");
  await page.getByRole("button", { name: "Previous branch" }).last().click();
  await page.waitForSelector("text=/1 of 2/");
  await page.getByRole("button", { name: "Edit" }).first().click();
  await page.getByLabel("Edited message").fill("edited");
  await page.getByRole("button", { name: "Ask this" }).click();
  await page.waitForSelector("[data-question]:has-text('edited')");
  await untilStatus(page, "complete");
  expect(await page.locator(answer).count()).toBe(1);
  if (process.env["SCREENSHOTS"]) await page.screenshot({ path: `${process.env["SCREENSHOTS"]}/branches.png` });
  await page.getByRole("button", { name: "Previous branch" }).first().click();
  await page.waitForSelector("[data-question]:has-text('one')");
  expect(await page.locator(answer).count()).toBe(2);
});
