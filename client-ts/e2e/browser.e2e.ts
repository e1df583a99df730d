/** Tests the page with the engine in the browser, on the real model, with and without its server. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContextOptions, Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { type Server, scripted } from "../test/support/server.ts";
import { WEIGHTS } from "./local-page.ts";
import {
  ask,
  chatServer,
  lastTurn,
  later,
  message,
  open,
  responseId,
  shownText,
  untilText,
  untilTurn,
  violations,
  words,
} from "./support.ts";

const PHONE: BrowserContextOptions = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
const SEA = "Write one sentence about the sea.";

/** Starts a server that shares the default model's file and answers with a text that no model would write. */
async function serve(settings: Record<string, string | number> = {}): Promise<Server> {
  const server = await chatServer({ ...scripted(40, 50), "engine.scripted.file": WEIGHTS, ...settings });
  later(() => server.stop());
  return server;
}

/** Starts the server again at the same address with the same settings. */
function restart({ url }: Server, settings: Record<string, string | number> = {}): Promise<Server> {
  return serve({ "server.bind": new URL(url).host, ...settings });
}

async function openSettings(page: Page): Promise<void> {
  await page.waitForSelector(".link[data-state]");
  await page.getByRole("button", { name: /Settings|Definições/ }).click();
  await page.getByRole("dialog").waitFor();
}

async function closeSettings(page: Page): Promise<void> {
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
}

/**
 * Opens a page, loads the model, and waits until the service worker has stored all files. Answers are short, at
 * temperature 0.
 */
async function loaded(server: Server, options: BrowserContextOptions = {}, most = 24): Promise<Page> {
  const page = await open(server.url, options);
  await page.waitForSelector('[data-state="connected"]');
  await openSettings(page);
  await page.getByLabel("Temperature").fill("0");
  await page.getByLabel("Maximum tokens of an answer").fill(String(most));
  await page.getByRole("button", { name: "Load", exact: true }).click();
  await page.getByRole("button", { name: "Unload" }).waitFor({ timeout: 60_000 });
  await closeSettings(page);
  await untilStored(page);
  return page;
}

/** Waits until the service worker has stored the engine's files completely. */
async function untilStored(page: Page): Promise<void> {
  const smallest = (): Promise<number> =>
    page.evaluate(async () => {
      const cache = await caches.open("caudal-page-1");
      const requests = await cache.keys();
      const parts = ["engine-", "start-", "SettingsDialog-", ".wasm"].map(async (part) => {
        const request = requests.find(({ url }) => url.includes(part));
        return request ? ((await (await cache.match(request))?.blob())?.size ?? 0) : 0;
      });
      return Math.min(...(await Promise.all(parts)));
    });
  await expect.poll(smallest, { timeout: 30_000, interval: 250 }).toBeGreaterThan(0);
}

async function itemsOf(url: string, conversation: string): Promise<[role: string, text: string, where?: string][]> {
  const answer = await fetch(`${url}/v1/conversations/${conversation}/items?order=asc&limit=100`);
  const { data } = (await answer.json()) as {
    data: { role: string; content: { text: string }[]; metadata?: { where?: string } }[];
  };
  return data.map(({ role, content, metadata }) => [
    role,
    content.map(({ text }) => text).join(""),
    metadata?.where ?? "server",
  ]);
}

/** Returns the violations that axe finds on a desktop and on a phone. */
async function violationsOnBoth(page: Page): Promise<string[]> {
  const size = page.viewportSize();
  const found: string[] = [];
  for (const viewport of [
    { width: 1280, height: 800 },
    { width: 390, height: 844 },
  ]) {
    await page.setViewportSize(viewport);
    found.push(...(await violations(page)));
    if ((await page.evaluate(() => document.documentElement.scrollWidth)) > viewport.width) found.push("It scrolls.");
  }
  if (size) await page.setViewportSize(size);
  return found;
}

const conversationOf = (page: Page): string => new URL(page.url()).hash.slice(1);

describe("the settings", () => {
  test.each([
    ["on a desktop", {}],
    ["on a phone", PHONE],
  ])("say what the model needs, load it with progress, unload and delete it: %s", async (_, options) => {
    const server = await serve();
    const page = await open(server.url, options);
    await page.waitForSelector('[data-state="connected"]');
    await openSettings(page);
    const local = page.locator(".local");
    await local.getByText(/^scripted is a download of 99 MB and needs about \d+ MB of memory\./).waitFor();
    expect(await violations(page)).toEqual([]);
    // Slow enough for the progress to be visible.
    await page.route("**/file*", async (route) => {
      await new Promise((resolve) => setTimeout(resolve, 300));
      await route.continue();
    });
    await local.getByRole("button", { name: "Load", exact: true }).click();
    await local.getByText(/^\d+ MB of 99 MB, .+ (left|so far)$/).waitFor();
    expect(await violations(page)).toEqual([]);
    await local.getByRole("button", { name: "Cancel" }).click();
    await local.getByText(/^scripted is a download of \d+ MB/).waitFor();
    await local.getByRole("button", { name: "Load", exact: true }).click();
    await local.getByText(/^scripted is loaded \(99 MB\)\. It runs on/).waitFor({ timeout: 60_000 });
    expect(await violations(page)).toEqual([]);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(page.viewportSize()?.width);
    await local.getByRole("button", { name: "Unload" }).click();
    await local.getByText(/^scripted is stored in this browser \(99 MB\)/).waitFor();
    expect(await violations(page)).toEqual([]);
    await local.getByRole("button", { name: "Delete from this browser" }).click();
    await local.getByText(/^scripted is a download of 99 MB/).waitFor();
    expect(await page.evaluate(() => localStorage.getItem("caudal.local"))).toBe("deleted");
  });

  test("show the problems of a load before it starts, and that a server does not share its model", async () => {
    const server = await serve();
    const page = await open(server.url, { locale: "pt-PT" });
    await page.addInitScript(() => {
      Object.defineProperty(navigator, "connection", { value: { saveData: true } });
      Object.defineProperty(navigator, "deviceMemory", { value: 0.5 });
    });
    await page.reload();
    await openSettings(page);
    await page.getByText("A poupança de dados do navegador está ligada.").waitFor();
    await page.getByText("Este dispositivo pode não ter memória suficiente.").waitFor();
    expect(await page.getByRole("button", { name: "Carregar mesmo assim" }).isVisible()).toBe(true);
    expect(await violations(page)).toEqual([]);
    const other = await chatServer(scripted(5, 0));
    later(() => other.stop());
    const without = await open(other.url);
    await openSettings(without);
    await without.getByText("This server does not share its model with browsers.").waitFor();
    expect(await without.locator(".local button").count()).toBe(0);
  });
});

describe("without its server", () => {
  test("a reloaded page answers with its own engine, and the turns join once, in order, in two tabs", async () => {
    const server = await serve();
    const page = await loaded(server);
    // The service worker stores the files again, as after an update of the page.
    await page.evaluate(() => caches.delete("caudal-page-1"));
    await page.reload();
    await untilStored(page);
    await server.stop();
    await page.reload();
    await ask(page, SEA);
    await page.locator(".waiting", { hasText: "Loading the model into this browser" }).waitFor();
    expect(await violationsOnBoth(page)).toEqual([]);
    await untilTurn(page, "done", "cut");
    const sea = await shownText(page);
    expect(sea).toContain("sea");
    expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^In this browser\s*not on the server yet/);
    await ask(page, "And one about a river?");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
    await untilTurn(page, "done", "cut");
    const river = await shownText(page);
    expect(conversationOf(page)).toMatch(/^local_/);
    expect(await violationsOnBoth(page)).toEqual([]);
    const second = await page.context().newPage();
    await second.goto(page.url());
    await untilTurn(second, "done", "cut");
    expect(words(await shownText(second))).toBe(words(river));

    const back = await restart(server);
    await Promise.all([page, second].map((page) => page.waitForURL(/#conv_/, { timeout: 60_000 })));
    expect(conversationOf(second)).toBe(conversationOf(page));
    await page.waitForFunction(() => !document.body.textContent?.includes("not on the server yet"));
    await second.waitForFunction(() => !document.body.textContent?.includes("not on the server yet"));
    const items = await itemsOf(back.url, conversationOf(page));
    expect(items.map(([role, text, where]) => [role, words(text), where])).toEqual([
      ["user", words(SEA), "browser"],
      ["assistant", words(sea), "browser"],
      ["user", words("And one about a river?"), "browser"],
      ["assistant", words(river), "browser"],
    ]);
    // The conversation goes on at the server.
    await page.waitForSelector('[data-state="connected"]');
    await ask(page, "Thank you.");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 3);
    await untilTurn(page, "done", "cut");
    expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^On the server/);
    expect(await page.locator(".turn .figures", { hasText: "In this browser" }).count()).toBe(2);
    await page.locator(".chats li").first().waitFor();
    expect(await page.locator(".chats li").count()).toBe(1);
    const list = (await (await fetch(`${back.url}/v1/conversations`)).json()) as { data: object[] };
    expect(list.data).toHaveLength(1);
  });

  test("a regenerated answer is another version, which joins as a branch", async () => {
    const server = await serve();
    const page = await loaded(server, {}, 8);
    await server.stop();
    await ask(page, SEA);
    await untilTurn(page, "done", "cut");
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.locator(".versions", { hasText: "2/2" }).waitFor();
    await untilTurn(page, "done", "cut");
    await restart(server);
    await page.waitForURL(/#conv_/, { timeout: 60_000 });
    await page.locator(".versions", { hasText: "2/2" }).waitFor();
    await page.getByRole("button", { name: "Previous version" }).click();
    await page.locator(".versions", { hasText: "1/2" }).waitFor();
    expect(conversationOf(page)).toMatch(/^conv_/);
    expect(await page.locator(".chats li").count()).toBe(1);
  });

  test("an answer that a reload cuts continues from its text", async () => {
    const server = await serve();
    const page = await loaded(server, {}, 70);
    await server.stop();
    await ask(page, "Write a long story about a river.");
    const before = await untilText(page, 80);
    const id = await responseId(page);
    await page.reload();
    const after = await untilText(page, before.length + 30);
    expect(words(after).slice(0, 40)).toBe(words(before).slice(0, 40));
    await untilTurn(page, "done", "cut");
    expect(await responseId(page)).toBe(id);
  });

  test("an answer whose tab is closed goes on in another tab that shows the conversation", async () => {
    const server = await serve();
    const page = await loaded(server, {}, 60);
    await server.stop();
    await ask(page, "Write a long story about a river.");
    const before = await untilText(page, 60);
    const second = await page.context().newPage();
    await second.goto(page.url());
    await second.waitForSelector(`${lastTurn}[data-status="waiting"]`);
    await page.close();
    await untilTurn(second, "done", "cut");
    const after = words(await shownText(second));
    expect(after.slice(0, 30)).toBe(words(before).slice(0, 30));
    expect(after.length).toBeGreaterThan(words(before).length + 20);
  });

  test("an answer that the network cut is continued in this browser on the user's request, and is marked", async () => {
    const folder = await mkdtemp(join(tmpdir(), "caudal-page-"));
    later(() => rm(folder, { recursive: true, force: true }));
    // The server runs the same model, and its store survives a restart.
    const real = { "engine.kind": "mistralrs", "store.kind": "sqlite", "store.sqlite.path": join(folder, "caudal.db") };
    const server = await serve(real);
    const page = await loaded(server, {}, 60);
    await openSettings(page);
    await page.getByLabel("Maximum tokens of an answer").fill("");
    await closeSettings(page);
    await ask(page, "Write a long story about a river, at least five hundred words.");
    await untilText(page, 100);
    const conversation = conversationOf(page);
    await server.stop();
    const button = page.getByRole("button", { name: "Continue in this browser" });
    await button.waitFor();
    expect(await violationsOnBoth(page)).toEqual([]);
    const before = await shownText(page);
    await openSettings(page);
    await page.getByLabel("Maximum tokens of an answer").fill("20");
    await closeSettings(page);
    await button.click();
    await untilTurn(page, "done", "cut");
    const after = await shownText(page);
    expect(words(after).startsWith(words(before))).toBe(true);
    expect(words(after).length).toBeGreaterThan(words(before).length + 10);
    expect(await page.textContent(lastTurn)).toContain("The server began this answer, and this browser continued it.");
    expect(await violationsOnBoth(page)).toEqual([]);
    expect(conversation).toMatch(/^conv_/);
    const back = await restart(server, real);
    await page.waitForFunction(() => !document.body.textContent?.includes("not on the server yet"), undefined, {
      timeout: 60_000,
    });
    expect(conversationOf(page)).toBe(conversation);
    const items = await itemsOf(back.url, conversationOf(page));
    expect(items.map(([role, text, where]) => [role, words(text), where])).toEqual([
      ["user", words("Write a long story about a river, at least five hundred words."), "browser"],
      ["assistant", words(after), "browser"],
    ]);
  });
});

test("the policy of this browser only never uses the server, and that of the server only never uses this browser", async () => {
  const server = await serve();
  const page = await loaded(server, {}, 8);
  await openSettings(page);
  await page.getByLabel("Answers from").selectOption("local");
  await closeSettings(page);
  await ask(page, SEA);
  await untilTurn(page, "done", "cut");
  expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^In this browser/);
  await page.waitForURL(/#conv_/);
  await openSettings(page);
  await page.getByLabel("Answers from").selectOption("server");
  await closeSettings(page);
  await ask(page, "And now?");
  await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
  await untilTurn(page, "done", "cut");
  expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^On the server/);
  await server.stop();
  await ask(page, "And without it?");
  await page.getByRole("button", { name: "Answer in this browser" }).click();
  await untilTurn(page, "done", "cut");
  expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^In this browser/);
  expect(await page.inputValue(message)).toBe("");
});
