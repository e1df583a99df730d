/** Tests the user's actions on conversations and messages, on the scripted engine, and the page without a server. */

import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { type Server, scripted } from "../test/support/server.ts";
import { ask, chatServer, lastTurn, later, open, responseId, untilText, untilTurn, violations } from "./support.ts";

const DIST = new URL("../chat/dist/", import.meta.url);

async function serve(settings: Record<string, string | number> = scripted(12, 0)): Promise<Server> {
  const server = await chatServer(settings);
  later(() => server.stop());
  return server;
}

const prompts = (page: Page): Promise<string[]> => page.locator(".turn .question > p").allTextContents();
const conversationOf = (page: Page): string => new URL(page.url()).hash.slice(1);

async function itemsOf(url: string, conversation: string): Promise<{ role: string; content: { text: string }[] }[]> {
  const answer = await fetch(`${url}/v1/conversations/${conversation}/items?order=asc&limit=100`);
  return ((await answer.json()) as { data: { role: string; content: { text: string }[] }[] }).data;
}

async function say(page: Page, ...texts: string[]): Promise<void> {
  for (const text of texts) {
    const before = await page.locator(".turn").count();
    await ask(page, text);
    await page.waitForFunction((n) => document.querySelectorAll(".turn").length > n, before);
    await untilTurn(page, "done");
  }
}

describe("the sidebar", () => {
  test("lists, names, searches, opens, renames, exports, imports and deletes conversations", async () => {
    const { url } = await serve();
    const page = await open(url);
    page.setDefaultTimeout(4000);
    await say(page, "one");
    const first = conversationOf(page);
    await page.getByRole("button", { name: "New chat" }).click();
    await say(page, "two");
    const rows = page.locator(".chats li");
    await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 2);
    // Waits until the model has named both.
    await page.waitForFunction(
      () => ![...document.querySelectorAll(".chats .chat")].some((row) => row.textContent === "New conversation"),
    );
    expect(await violations(page)).toEqual([]);

    const row = page.locator(`.chats li[data-id="${first}"]`);
    await row.locator(".chat").click();
    await page.waitForURL(new RegExp(first));
    await untilTurn(page, "done");
    expect(await prompts(page)).toEqual(["one"]);
    await row.locator(".chat-options").click();
    expect(await violations(page)).toEqual([]);
    await row.getByRole("button", { name: "Rename" }).click();
    await page.getByRole("textbox", { name: "Rename" }).fill("Zebra crossing");
    await page.keyboard.press("Enter");
    await page.locator(".chats .chat", { hasText: "Zebra crossing" }).waitFor();

    await page.getByRole("searchbox").fill("zebra");
    await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 1);
    await page.getByRole("searchbox").fill("");

    const saved = async (format: string): Promise<string> => {
      await row.locator(".chat-options").click();
      const [file] = await Promise.all([
        page.waitForEvent("download"),
        row.getByRole("button", { name: `Export as ${format}` }).click(),
      ]);
      return readFile(await file.path(), "utf8");
    };
    expect(await saved("Markdown")).toMatch(/^# Zebra crossing\n\n## You\n\none\n\n## Answer\n\n/);
    const json = await saved("JSON");
    await page.setInputFiles('.import input[type="file"]', {
      name: "chat.json",
      mimeType: "application/json",
      buffer: Buffer.from(json),
    });
    await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 3);
    expect(conversationOf(page)).not.toBe(first);
    await untilTurn(page, "done");
    expect(await prompts(page)).toEqual(["one"]);

    page.on("dialog", (dialog) => void dialog.accept());
    await row.locator(".chat-options").click();
    await row.getByRole("button", { name: "Delete" }).click();
    await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 2);
    expect((await fetch(`${url}/v1/conversations/${first}`)).status).toBe(404);
    expect(await rows.count()).toBe(2);
  });

  test("is in sync with another tab, and the back button works", async () => {
    const { url } = await serve();
    const page = await open(url);
    await say(page, "one");
    await page.locator(".chats li").first().waitFor();
    const other = await page.context().newPage();
    await other.goto(url);
    await other.waitForFunction(() => document.querySelectorAll(".chats li").length === 1);
    await other.getByRole("button", { name: "New chat" }).click();
    await say(other, "two");
    await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 2);
    const before = page.url();
    await page.locator(".chats li:not([data-current=true]) .chat").click();
    await page.waitForFunction((url) => location.href !== url, before);
    await page.goBack();
    await page.waitForURL(before);
    await page.getByText("one", { exact: true }).first().waitFor();
  });

  test("is a drawer on a phone", async () => {
    const { url } = await serve();
    const page = await open(url, { viewport: { width: 390, height: 800 }, isMobile: true, hasTouch: true });
    await page.waitForSelector('[data-state="connected"]');
    expect(await page.locator(".sidebar").count()).toBe(0);
    await page.getByRole("button", { name: "Show chats" }).click();
    await page.locator(".sidebar").waitFor();
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    expect(await violations(page)).toEqual([]);
  });
});

describe("messages", () => {
  test("are edited in a branch; the versions are a step apart, also in another browser", async () => {
    const { url } = await serve();
    const page = await open(url);
    await say(page, "one", "two");
    const first = conversationOf(page);
    await page.locator(".turn").nth(1).hover();
    await page.locator(".turn").nth(1).getByRole("button", { name: "Edit message" }).click();
    await page.locator(".edit textarea").fill("another two");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.waitForURL((address) => address.hash !== `#${first}`);
    await untilTurn(page, "done");
    expect(await prompts(page)).toEqual(["one", "another two"]);
    await page.locator(".versions", { hasText: "2/2" }).waitFor();
    expect(await violations(page)).toEqual([]);
    expect((await itemsOf(url, first)).map(({ content }) => content[0]?.text)).toContain("two");
    expect(await page.locator(".chats li").count()).toBe(1);
    const other = await open(page.url());
    await other.locator(".versions", { hasText: "2/2" }).waitFor();
    await other.getByRole("button", { name: "Previous version" }).click();
    await other.locator(".versions", { hasText: "1/2" }).waitFor();
    expect(await prompts(other)).toEqual(["one", "two"]);
  });

  test("that were cut are continued in the same answer", async () => {
    const { url } = await serve({ ...scripted(40, 0), "generation.max_output_tokens": 20 });
    const page = await open(url);
    await ask(page, "one");
    await untilTurn(page, "cut");
    const before = (await page.textContent(`${lastTurn} .prose`)) ?? "";
    await page.getByRole("button", { name: "Continue answer" }).click();
    await page.waitForFunction(
      ([selector, length]) => (document.querySelector(selector)?.textContent?.length ?? 0) > length,
      [`${lastTurn} .prose`, before.length] as const,
    );
    await untilTurn(page, "cut", "done", "stopped");
    const after = (await page.textContent(`${lastTurn} .prose`)) ?? "";
    expect(after.startsWith(before.trim())).toBe(true);
    expect(await page.locator(".turn").count()).toBe(1);
    await page.reload();
    await page.waitForSelector('[data-state="connected"]');
    expect(await page.textContent(`${lastTurn} .prose`)).toBe(after);
    expect((await itemsOf(url, conversationOf(page))).map(({ role }) => role)).toEqual([
      "user",
      "assistant",
      "developer",
      "assistant",
    ]);
  });

  test("interrupt an answer, and are deleted", async () => {
    const { url } = await serve(scripted(3000, 60));
    const page = await open(url);
    await ask(page, "one");
    await untilText(page, 40);
    await page.fill("#message", "two");
    await page.getByRole("button", { name: "Interrupt and send" }).click();
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
    await untilText(page, 20);
    expect(await page.locator(".turn").first().getAttribute("data-status")).toBe("stopped");
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    await page.locator(".turn").first().hover();
    await page.locator(".turn").first().getByRole("button", { name: "Delete message and answer" }).click();
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 1);
    expect(await prompts(page)).toEqual(["two"]);
    expect((await itemsOf(url, conversationOf(page))).map(({ role }) => role)).toEqual(["user", "assistant"]);
  });

  test("that were not answered are asked again in the same conversation", async () => {
    const { url } = await serve({ ...scripted(3000, 60), "engine.scripted.prefill_ms": 60_000 });
    const page = await open(url);
    await ask(page, "one");
    await page.waitForURL(/#conv_/);
    const conversation = conversationOf(page);
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    await page.getByRole("button", { name: "Regenerate" }).click();
    await untilTurn(page, "waiting");
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    expect(conversationOf(page)).toBe(conversation);
    expect(await page.locator(".versions").count()).toBe(0);
    expect(await prompts(page)).toEqual(["one"]);
  });

  test("take files and long pasted text along, and show them after a reload", async () => {
    const { url } = await serve();
    const page = await open(url);
    await page.waitForSelector('[data-state="connected"]');
    await page.setInputFiles(".attach input", {
      name: "notes.txt",
      mimeType: "text/plain",
      buffer: Buffer.from("The river is long."),
    });
    await page.locator(".chip", { hasText: "notes.txt" }).waitFor();
    await page.evaluate(() => {
      const data = new DataTransfer();
      data.setData("text/plain", "water ".repeat(500));
      const paste = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
      document.querySelector("#message")?.dispatchEvent(paste);
    });
    await page.locator(".chip", { hasText: "Pasted text 2" }).waitFor();
    expect(await page.inputValue("#message")).toBe("");
    expect(await violations(page)).toEqual([]);
    await page.setInputFiles(".attach input", {
      name: "picture.png",
      mimeType: "image/png",
      buffer: Buffer.from([0x89, 0x50, 0, 0xff]),
    });
    await page.getByText(/picture\.png is not a text file/).waitFor();
    await say(page, "Read this.");
    const [item] = await itemsOf(url, conversationOf(page));
    expect(item?.content.map(({ text }) => text).join("")).toContain(
      '<file name="notes.txt">\nThe river is long.\n</file>',
    );
    const other = await open(page.url());
    await untilTurn(other, "done");
    expect(await prompts(other)).toEqual(["Read this."]);
    expect(await other.locator(".attached summary").allTextContents()).toEqual(["notes.txt", "Pasted text 2"]);
    await other.locator(".context").waitFor();
  });
});

describe("settings", () => {
  test("apply to requests and are stored, including Portuguese and the dark theme", async () => {
    const { url } = await serve();
    const page = await open(url);
    const asked: string[] = [];
    await page.waitForSelector('[data-state="connected"]');
    page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => asked.push(String(payload))));
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("System prompt").fill("Be brief.");
    await page.getByLabel("Temperature").fill("0.7");
    await page.getByLabel("Maximum tokens of an answer").fill("5");
    expect(await violations(page)).toEqual([]);
    await page.getByLabel("Theme").selectOption("dark");
    await page.getByLabel("Language").selectOption("pt");
    expect(await violations(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.reload();
    await page.getByRole("heading", { name: "O que gostarias de saber?" }).waitFor();
    expect(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme)).toBe("dark");
    expect(await page.getAttribute("html", "lang")).toBe("pt");
    await ask(page, "olá");
    await untilTurn(page, "cut");
    const create = asked.map((text) => JSON.parse(text)).find(({ type }) => type === "response.create");
    expect(create).toMatchObject({ instructions: "Be brief.", temperature: 0.7, max_output_tokens: 5 });
  });

  test("choose a stored prompt, and give its variables their values", async () => {
    const { url } = await serve();
    const body = { name: "Guide", instructions: "You guide {{visitor}} through {{city}}." };
    const headers = { "content-type": "application/json" };
    const made = await fetch(`${url}/v1/prompts`, { method: "POST", headers, body: JSON.stringify(body) });
    const { id } = (await made.json()) as { id: string };
    const page = await open(url);
    await page.waitForSelector('[data-state="connected"]');
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Stored prompt").selectOption("Guide");
    await page.getByLabel("Value of visitor").fill("Ines");
    await page.keyboard.press("Escape");
    // A value is missing, and the server names it.
    await ask(page, "Hello");
    await untilTurn(page, "failed");
    expect(await page.textContent(`${lastTurn} [role="alert"]`)).toContain("city");
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Value of city").fill("Lisbon");
    expect(await violations(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Try again" }).click();
    await untilTurn(page, "done");
    const response = await fetch(`${url}/v1/responses/${await responseId(page)}`);
    expect(await response.json()).toMatchObject({ prompt: { id, variables: { visitor: "Ines", city: "Lisbon" } } });
    await page.reload();
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Value of city").waitFor();
    expect(await page.getByLabel("Value of city").inputValue()).toBe("Lisbon");
  });

  test("the keyboard opens a new chat, the search and its own list", async () => {
    const { url } = await serve();
    const page = await open(url);
    await say(page, "one");
    await page.keyboard.press("Alt+Shift+KeyF");
    await page.waitForFunction(() => document.activeElement?.getAttribute("type") === "search");
    await page.keyboard.press("Alt+Shift+KeyH");
    await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
    expect(await violations(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.keyboard.press("Alt+Shift+KeyN");
    await page.waitForSelector(".welcome");
  });
});

test("a broken local store never blanks the page", async () => {
  const { url } = await serve();
  const page = await open(url);
  const turn = {
    key: "a",
    prompt: "why?",
    answer: "because",
    status: "done",
    calls: 5,
    thinking: "x",
    attachments: [1],
  };
  for (const broken of ["{", "[1]", JSON.stringify({ turns: [turn, null, 7, { ...turn, status: "odd" }] })]) {
    await page.evaluate((text) => {
      for (const name of ["caudal.chat.v2", "caudal.settings", "caudal.chats", "caudal.kept"])
        localStorage.setItem(name, text);
      history.replaceState(null, "", location.pathname);
    }, broken);
    await page.reload();
    await page.waitForSelector('[data-state="connected"]');
    await page.waitForSelector("#message");
  }
  expect(await prompts(page)).toEqual(["why?"]);
});

test("without its server the page opens with its last conversations", async () => {
  const server = await serve();
  const page = await open(server.url);
  await say(page, "one");
  await page.getByRole("button", { name: "New chat" }).click();
  await say(page, "two");
  await page.waitForFunction(() => document.querySelectorAll(".chats li").length === 2);
  const isStored = (): Promise<boolean> =>
    page.evaluate(async () => {
      const keys = await (await caches.open("caudal-page-1")).keys();
      return keys.some(({ url }) => url.endsWith(".js")) && navigator.serviceWorker.controller !== null;
    });
  await expect.poll(isStored).toBe(true);
  await server.stop();
  await page.reload();
  await page.getByText("two", { exact: true }).first().waitFor();
  await page.locator(".chats li:not([data-current=true]) .chat").click();
  await page.getByText("one", { exact: true }).first().waitFor();
  expect(await page.locator(`${lastTurn} .prose`).textContent()).not.toBe("");
});

test("<caudal-chat> answers in another page, sends events, and stays isolated", async () => {
  const { url } = await serve();
  if (!existsSync(new URL("caudal-chat.js", DIST))) throw new Error("Run `npm run build:chat` first.");
  const page = await open(url);
  const example = await readFile(new URL("../examples/web-component/index.html", import.meta.url), "utf8");
  // The example page at this server's origin, with the element's script.
  await page.route(`${url}/example`, (route) => route.fulfill({ contentType: "text/html", body: example }));
  await page.goto(`${url}/example`);
  // Removes the conversation that the chat page created before.
  await page.evaluate(() => localStorage.clear());
  await page.locator('caudal-chat [data-state="connected"]').waitFor();
  await page.evaluate(() => {
    document.addEventListener("caudal-conversation", (event) => {
      document.body.dataset["conversation"] = (event as CustomEvent<{ id: string }>).detail.id;
    });
  });
  await page.locator("caudal-chat #message").fill("hello");
  await page.locator("caudal-chat #message").press("Enter");
  await page.locator('caudal-chat .turn[data-status="done"]').waitFor();
  await page.locator("#status", { hasText: "done" }).waitFor();
  expect(await page.getAttribute("body", "data-conversation")).toMatch(/^conv_/);
  expect(new URL(page.url()).hash).toBe("");
  expect(await page.evaluate(() => localStorage.length)).toBe(0);
  const radius = await page
    .locator("caudal-chat .composer")
    .evaluate((element) => getComputedStyle(element).borderRadius);
  expect(radius).toBe("10px");
  expect(await violations(page)).toEqual([]);
});

test("the page starts with at most 150 KB of script", async () => {
  const html = await readFile(new URL("index.html", DIST), "utf8");
  const scripts = [...html.matchAll(/(?:src|href)="\.\/(assets\/[^"]+\.js)"/g)].map(([, path]) => path ?? "");
  expect(scripts.length).toBeGreaterThan(0);
  let bytes = 0;
  for (const path of scripts) {
    const script = await readFile(new URL(path, DIST));
    bytes += gzipSync(script).length;
    // The name of the engine's lock must not occur: the page loads no code of the engine.
    expect(script.includes("caudal-join"), path).toBe(false);
  }
  expect(bytes / 1024).toBeLessThanOrEqual(150);
});
