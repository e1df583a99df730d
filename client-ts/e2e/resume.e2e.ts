/**
 * Tests the page of AI SDK's example of resumable streams on the real binary: reloads and killed servers during a
 * stream.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { freePort } from "../test/support/redis.ts";
import { type Server, scripted, startServer } from "../test/support/server.ts";
import { buildExamples, type Examples } from "./examples.ts";
import { later, open } from "./support.ts";

const TOKENS = 600;
const STORY = scripted(TOKENS, 60);

let examples: Examples;

beforeAll(async () => {
  examples = await buildExamples("resume");
}, 60_000);

afterAll(() => examples?.remove());

/** Starts a server whose store survives a restart. */
async function restartable(): Promise<{ url: string; restart(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "caudal-resume-"));
  const settings = {
    ...STORY,
    "server.bind": `127.0.0.1:${await freePort()}`,
    "server.chat_dir": examples.folder("resume"),
    "store.kind": "sqlite",
    "store.sqlite.path": join(folder, "caudal.db"),
  };
  let server: Server = await startServer(settings);
  later(async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return {
    url: server.url,
    restart: async () => {
      await server.stop();
      server = await startServer(settings);
    },
  };
}

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message").fill(text);
  await page.keyboard.press("Enter");
}

interface Shown {
  id: string;
  text: string;
}

/** Waits until the answer has this length. */
async function untilText(page: Page, length: number, timeout = 20_000): Promise<Shown> {
  const handle = await page.waitForFunction(
    ([selector, length]) => {
      const answer = [...document.querySelectorAll<HTMLElement>(selector)].at(-1);
      const text = answer?.textContent ?? "";
      return text.length >= length && { id: answer?.dataset["id"] ?? "", text };
    },
    ['[data-role="assistant"]', length] as const,
    { timeout },
  );
  return (await handle.jsonValue()) as Shown;
}

const untilStatus = (page: Page, status: string): Promise<unknown> =>
  page.waitForSelector(`output:text-is("${status}")`, { timeout: 60_000 });

interface Stored {
  status: string;
  output: { content: { text: string }[] }[];
  usage: { output_tokens: number } | null;
}

/** Checks that the page ends with the same message id and with the text that the server has. */
async function untilWhole(page: Page, url: string, { id }: Shown): Promise<void> {
  const stored = async (): Promise<Stored> => (await (await fetch(`${url}/v1/responses/${id}`)).json()) as Stored;
  await expect.poll(async () => (await stored()).status, { timeout: 60_000 }).toBe("completed");
  const { output, usage } = await stored();
  expect(usage?.output_tokens).toBe(TOKENS);
  const text = output.flatMap(({ content }) => content.map((part) => part.text)).join("");
  expect(await untilText(page, text.length)).toEqual({ id, text });
  await untilStatus(page, "ready");
  expect(await page.locator("[data-role]").count()).toBe(2);
  expect(await page.getByRole("alert").count()).toBe(0);
}

test("a reload in mid-stream goes on with the same message, again and again", async () => {
  const { url } = await restartable();
  const page = await open(url);
  await ask(page, "Tell me of a river.");
  let shown = await untilText(page, 100);
  await page.getByRole("link").click();
  for (let reloads = 0; reloads < 3; reloads++) {
    const before = shown;
    shown = await untilText(page, before.text.length + 100);
    expect(shown.id).toBe(before.id);
    expect(shown.text.slice(0, before.text.length)).toBe(before.text);
    await page.reload();
  }
  await untilWhole(page, url, shown);
  await page.reload();
  expect((await untilText(page, 1)).text.length).toBeGreaterThan(shown.text.length);
  expect(await page.locator("[data-role]").count()).toBe(2);
});

test("a server that is killed in mid-stream, twice, goes on with the same message", async () => {
  const { url, restart } = await restartable();
  const page = await open(url);
  await ask(page, "Tell me of a river.");
  const shown = await untilText(page, 100);
  await restart();
  const next = await untilText(page, shown.text.length + 200);
  expect(next.id).toBe(shown.id);
  await restart();
  await untilWhole(page, url, next);
});

test("a page that is reloaded after its server was killed goes on with the same message", async () => {
  const { url, restart } = await restartable();
  const page = await open(url);
  await ask(page, "Tell me of a river.");
  const shown = await untilText(page, 100);
  const link = await page.getByRole("link").getAttribute("href");
  await restart();
  await page.goto(new URL(link ?? "", url).href);
  const next = await untilText(page, shown.text.length + 100);
  await restart();
  await page.reload();
  await untilWhole(page, url, next);
});

test("a stopped stream goes on at the server, and is found again by a reload", async () => {
  const { url } = await restartable();
  const page = await open(url);
  await ask(page, "Tell me of a river.");
  const shown = await untilText(page, 100);
  await page.getByRole("button", { name: "Stop" }).click();
  await untilStatus(page, "ready");
  await page.getByRole("link").click();
  await untilWhole(page, url, await untilText(page, shown.text.length + 50));
});
