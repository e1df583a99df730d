/** Tests the examples in a browser, on the real binary: send, stream, stop, reload during a stream, a second tab. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Server, scripted, startServer } from "../test/support/server.ts";
import { buildExamples, type Examples } from "./examples.ts";
import { later, open, violations } from "./support.ts";

/** An answer that is long enough for the test's actions on a slow machine. */
const STORY = scripted(3_000, 60);
const answer = "[data-answer]";

let examples: Examples;

beforeAll(async () => {
  examples = await buildExamples("html", "react", "use-chat", "assistant-ui");
}, 60_000);

afterAll(() => examples?.remove());

async function serve(name: string, settings: Record<string, string | number> = STORY): Promise<Server> {
  const server = await startServer({ "server.chat_dir": examples.folder(name), ...settings });
  later(() => server.stop());
  return server;
}

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits until the last answer has this length. */
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

/** Waits until the last answer has been painted with this many different lengths. */
async function untilPaints(page: Page, count: number): Promise<void> {
  await page.evaluate(
    async ([selector, count]) => {
      const lengths = new Set<number>();
      while (lengths.size < count) {
        lengths.add([...document.querySelectorAll(selector)].at(-1)?.textContent?.length ?? 0);
        await new Promise(requestAnimationFrame);
      }
    },
    [answer, count] as const,
  );
}

/** The pages, and the status of a stopped answer in each. */
const PAGES: [name: string, over: string][] = [
  ["html", "incomplete"],
  ["react", "ended"],
  ["use-chat", "ready"],
  ["assistant-ui", "incomplete"],
];

test.each(PAGES)("%s: streams, goes on after a reload and in a second tab, and stops in both", async (name, over) => {
  const { url } = await serve(name);
  const page = await open(url);
  await ask(page, "Tell me of a river.");
  const before = await untilText(page, 30);
  await untilPaints(page, 5);
  await page.waitForFunction(() => location.hash.length > 1);

  await page.reload();
  const after = await untilText(page, before.length + 30);
  expect(after.slice(0, before.length)).toBe(before);

  const second = await page.context().newPage();
  await second.goto(page.url());
  await untilText(second, after.length);
  await untilPaints(second, 5);
  if (process.env["SCREENSHOTS"]) await second.screenshot({ path: `${process.env["SCREENSHOTS"]}/${name}.png` });

  // The page grows, so a real click could miss the button.
  await page.getByRole("button", { name: "Stop" }).dispatchEvent("click");
  await Promise.all([untilStatus(page, over), untilStatus(second, over)]);
  // assistant-ui animates the last characters.
  const differs = async () => (await untilText(page, 1)) !== (await untilText(second, 1));
  await expect.poll(differs, { timeout: 10_000 }).toBe(false);
  const mine = await untilText(page, 1);
  expect(mine.split(/\s+/).length).toBeLessThan(2_900);
  expect(await violations(page)).toEqual([]);
});

test("react: reload while a question waits shows its place at once, and the question is answered", async () => {
  const server = await serve("react", { ...STORY, "engine.max_running": 1 });
  const post = async (path: string, body: object): Promise<{ id: string }> => {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${server.url}/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    return (await answer.json()) as { id: string };
  };
  const busy = await post("responses", { input: "in the way", background: true });
  const page = await open(server.url);
  await ask(page, "Tell me of a river.");
  await page.waitForSelector("text=/in line/");
  await page.reload();
  // This is one second, and a reserve for a busy machine.
  await page.waitForSelector("text=/in line/", { timeout: 3_000 });
  expect(await page.locator(answer).count()).toBe(1);
  await post(`responses/${busy.id}/cancel`, {});
  await untilText(page, 10);
  await page.getByRole("button", { name: "Stop" }).dispatchEvent("click");
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
