/** Measures bundle sizes, frames while text streams into a long conversation, and the engine in the browser. Prints a table; BENCH_JSON: a file for it. */

import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { scripted, startServer } from "../test/support/server.ts";
import { sizes } from "../test/support/sizes.ts";
import { buildExamples, type Examples } from "./examples.ts";
import { buildLocalPage, MODELS, openLocal } from "./local-page.ts";
import { ask, chatServer, later, open, renderers } from "./support.ts";

const SECONDS = 10;
const TOKENS_PER_SECOND = 100;
const TURNS = 50;
const WORDS_PER_ITEM = 100;
const ITEMS_AT_ONCE = 20;
const ROOM = { "engine.scripted.context_length": 32_768 };
const STREAMING = '[data-status="streaming"]';

let examples: Examples;
const result: Record<string, unknown> = {};

beforeAll(async () => {
  examples = await buildExamples("react");
}, 60_000);

afterAll(async () => {
  await examples?.remove();
  const kilobytes = await sizes();
  console.table(kilobytes);
  const path = process.env["BENCH_JSON"];
  if (path) await writeFile(path, `${JSON.stringify({ ...result, kilobytes }, null, 2)}\n`);
});

async function longConversation(url: string): Promise<string> {
  const post = async (path: string, body: object): Promise<{ id: string }> => {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${url}/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(await answer.text());
    return (await answer.json()) as { id: string };
  };
  const content = Array.from({ length: WORDS_PER_ITEM }, (_, n) => `word${n}`).join(" ");
  const { id } = await post("conversations", {});
  const items = Array.from({ length: TURNS * 2 }, (_, n) => ({ role: n % 2 === 0 ? "user" : "assistant", content }));
  for (let from = 0; from < items.length; from += ITEMS_AT_ONCE) {
    await post(`conversations/${id}/items`, { items: items.slice(from, from + ITEMS_AT_ONCE) });
  }
  return id;
}

interface Frames {
  seconds: number;
  fps: number;
  p99Ms: number;
  longestTaskMs: number;
}

/** Measures the frames that the screen painted until nothing streamed any more. */
function framesOf(page: Page): Promise<Frames> {
  return page.evaluate(async () => {
    const longTasks: number[] = [];
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) longTasks.push(duration);
    }).observe({ type: "longtask" });
    const times: number[] = [];
    while (document.querySelector('[data-status="streaming"]')) {
      times.push(await new Promise<number>((resolve) => requestAnimationFrame(resolve)));
    }
    const gaps = times
      .slice(1)
      .map((time, index) => time - (times[index] ?? 0))
      .sort((a, b) => a - b);
    const seconds = ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1000;
    const p99 = gaps[Math.floor(gaps.length * 0.99)] ?? 0;
    return { seconds, fps: gaps.length / seconds, p99Ms: p99, longestTaskMs: Math.max(0, ...longTasks) };
  });
}

test("the chat page: its first paint, and frames while text streams into 50 turns", async () => {
  const server = await chatServer({ ...scripted(SECONDS * TOKENS_PER_SECOND, TOKENS_PER_SECOND), ...ROOM });
  later(() => server.stop());
  const page = await open(`${server.url}/#${await longConversation(server.url)}`);
  await page.waitForFunction((count) => document.querySelectorAll(".turn").length === count, TURNS);
  const lcpMs = await page.evaluate(
    () =>
      new Promise<number>((resolve) => {
        const observer = new PerformanceObserver((list) => resolve(list.getEntries().at(-1)?.startTime ?? 0));
        observer.observe({ type: "largest-contentful-paint", buffered: true });
      }),
  );
  await ask(page, "And now?");
  await page.waitForSelector(STREAMING);
  const row = { lcpMs, ...(await framesOf(page)) };
  console.table([row]);
  Object.assign(result, { page: row });
  expect(row.seconds).toBeGreaterThan(SECONDS / 2);
});

test("100 tokens a second into a conversation of 10,000 tokens", async () => {
  const server = await startServer({
    ...scripted(SECONDS * TOKENS_PER_SECOND, TOKENS_PER_SECOND),
    ...ROOM,
    "server.chat_dir": examples.folder("react"),
  });
  later(() => server.stop());
  const page = await open(`${server.url}/#${await longConversation(server.url)}`);
  const older = page.getByRole("button", { name: "Older messages" });
  await page.waitForSelector("[data-answer]");
  while (await older.isVisible()) {
    const before = await page.locator("[data-answer]").count();
    await older.click();
    await page.waitForFunction((count) => document.querySelectorAll("[data-answer]").length > count, before);
  }
  expect(await page.locator("[data-answer]").count()).toBe(TURNS);
  await page.getByLabel("Message").fill("And now?");
  await page.getByRole("button", { name: "Send" }).click();
  await page.waitForSelector('[data-status="streaming"]');
  const frames = await framesOf(page);
  console.table([frames]);
  Object.assign(result, { frames });
  expect(frames.seconds).toBeGreaterThan(SECONDS / 2);
});

test("the engine in the browser, by quantisation and threads", async () => {
  const built = await buildLocalPage();
  later(built.remove);
  const rows: Record<string, Row> = {};
  for (const quantisation of ["Q4_1", "Q8_0", "Q4_0"]) {
    const file = join(MODELS, `SmolLM2-135M-Instruct.${quantisation}.gguf`);
    if (!existsSync(file)) {
      console.log(`There is no ${file}, so it is not measured.`);
      continue;
    }
    const shared = { "server.chat_dir": built.folder, "engine.scripted.file": file };
    const server = await startServer({ ...scripted(1, 0), ...shared });
    later(() => server.stop());
    for (const threads of [1]) {
      const page = await openLocal(server.url);
      const before = await residentMb(page);
      const row = await page.evaluate(measure, threads);
      rows[`${quantisation}, ${threads}`] = { ...row, memoryMb: (await residentMb(page)) - before };
      console.log(quantisation, threads, JSON.stringify(rows[`${quantisation}, ${threads}`]));
      await page.context().close();
    }
  }
  console.table(rows);
  Object.assign(result, { browser: rows });
  expect(Object.keys(rows).length).toBeGreaterThan(0);
});

interface Row {
  backend: string;
  fileMb: number;
  loadMs: number;
  promptPerSecond: number;
  tokensPerSecond: number;
  /** Resident memory of the page's process with the model loaded, less that of the page without the model. */
  memoryMb: number;
}

/** Resident memory of the processes that run pages. */
async function residentMb(page: Page): Promise<number> {
  let kilobytes = 0;
  for (const pid of await renderers(page)) {
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
    kilobytes += Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0);
  }
  return Math.round((kilobytes * 1024) / 1e6);
}

/** Runs in the page. Leaves the model loaded. */
async function measure(threads: number): Promise<Omit<Row, "memoryMb">> {
  const local = globalThis.page.engine({ threads });
  const mb = (bytes: number): number => Math.round(bytes / 1e6);
  const begun = performance.now();
  const info = await local.load();
  const loadMs = Math.round(performance.now() - begun);
  const input = `Sum up: ${"a river flows from the spring to the sea, and nobody asks who listens. ".repeat(5)}`;
  const asked = performance.now();
  let first = 0;
  const handle = local.create({ input, temperature: 0, max_output_tokens: 33 });
  for await (const _ of handle.text()) first ||= performance.now();
  const ended = performance.now();
  const { usage } = await handle.final();
  return {
    ...{ backend: info.backend, fileMb: mb(info.bytes), loadMs },
    promptPerSecond: Math.round(((usage?.input_tokens ?? 0) / (first - asked)) * 1000),
    tokensPerSecond: Math.round((((usage?.output_tokens ?? 1) - 1) / (ended - first)) * 10_000) / 10,
  };
}
