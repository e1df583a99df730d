/** Frames while text streams into a long conversation, and what the package weighs. Prints a table; BENCH_JSON names a file. */

import { writeFile } from "node:fs/promises";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { scripted, startServer } from "../test/support/server.ts";
import { sizes } from "../test/support/sizes.ts";
import { buildExamples, type Examples } from "./examples.ts";
import { ask, chatServer, later, open } from "./support.ts";

const SECONDS = 10;
const TOKENS_PER_SECOND = 100;
const TURNS = 50;
const WORDS_PER_ITEM = 100;
const ITEMS_AT_ONCE = 20;
const ROOM = { "engine.scripted.context_length": 32_768 };
const STREAMING = '[data-status="streaming"]';

let examples: Examples;

beforeAll(async () => {
  examples = await buildExamples("react");
}, 60_000);

afterAll(() => examples?.remove());

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

/** What the screen painted until nothing streamed any more. */
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
  const result = { frames, kilobytes: await sizes() };
  console.table([frames]);
  console.table(result.kilobytes);
  const path = process.env["BENCH_JSON"];
  if (path) await writeFile(path, `${JSON.stringify(result, null, 2)}\n`);
  expect(frames.seconds).toBeGreaterThan(SECONDS / 2);
});
