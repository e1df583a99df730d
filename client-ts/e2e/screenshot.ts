/**
 * Takes screenshots of the page on the real model and with the engine in the browser. Four of them are in the README;
 * the others go to a temporary folder for review.
 */

import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContextOptions, Page } from "playwright-core";
import { test } from "vitest";
import { ask, chatServer, later, open, untilText, untilTurn } from "./support.ts";

const FOLDER = join(tmpdir(), "caudal-screenshots");
const README = new URL("../chat/", import.meta.url).pathname;

const DESKTOP: BrowserContextOptions = { viewport: { width: 1200, height: 800 } };
const PHONE: BrowserContextOptions = {
  viewport: { width: 390, height: 844 },
  isMobile: true,
  hasTouch: true,
  deviceScaleFactor: 2,
};

const SHOWCASE = [
  "The area under the curve is $\\int_0^1 x^2\\,dx = \\frac{1}{3}$:",
  "$$\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}$$",
  "```python\ndef area(n: int) -> float:\n    # A sum of small rectangles.\n    return sum((i / n) ** 2 for i in range(n)) / n\n```",
  "| n | area |\n|---|---|\n| 10 | 0.285 |\n| 1000 | 0.333 |",
].join("\n\n");

async function picture(page: Page, name: string, folder = FOLDER): Promise<void> {
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Creates a conversation with items. Resolves to its id. */
async function given(url: string): Promise<string> {
  const items = [
    { role: "user", content: "How large is the area under x² from 0 to 1?" },
    { role: "assistant", content: SHOWCASE },
  ];
  const body = JSON.stringify({ items, metadata: { title: "Area under a curve" } });
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${url}/v1/conversations`, { method: "POST", headers, body });
  return ((await answer.json()) as { id: string }).id;
}

test("pictures", async () => {
  mkdirSync(FOLDER, { recursive: true });
  const server = await chatServer({ "engine.kind": "mistralrs", "engine.max_running": 1 });
  later(() => server.stop());
  const id = await given(server.url);

  const light = await open(server.url, { ...DESKTOP, colorScheme: "light" });
  await light.waitForSelector('[data-state="connected"]');
  await picture(light, "1-empty");
  await ask(light, "Write a Python function that reverses a string");
  await untilTurn(light, "done", "cut");
  await light.locator(".chats li[data-current=true] .chat:not(:text-is('New conversation'))").waitFor();
  await ask(light, "How do I stay focused while working from home?");
  await untilText(light, 300);
  await picture(light, "screenshot", README);
  await light.keyboard.press("Escape");
  await untilTurn(light, "stopped");
  await picture(light, "2-stopped");
  await light.getByRole("button", { name: "Settings" }).click();
  await light.getByRole("dialog").waitFor();
  await light.locator(".local button").scrollIntoViewIfNeeded();
  await picture(light, "screenshot-settings", README);
  await light.keyboard.press("Escape");
  await light.locator(".chat-options").first().click();
  await light.setInputFiles(".attach input", {
    name: "notes.txt",
    mimeType: "text/plain",
    buffer: Buffer.from("a river"),
  });
  await light.locator(".turn").last().hover();
  await picture(light, "3-menu-and-chip");
  await light.keyboard.press("Alt+Shift+KeyH");
  await light.getByRole("dialog").waitFor();
  await picture(light, "4-shortcuts");

  const dark = await open(`${server.url}/#${id}`, { ...DESKTOP, colorScheme: "dark" });
  await untilTurn(dark, "done");
  await dark.waitForSelector(".hljs-keyword");
  await dark.waitForSelector("math");
  await picture(dark, "screenshot-dark", README);
  await dark.locator(".turn").last().hover();
  await dark.getByRole("button", { name: "Edit message" }).click();
  await picture(dark, "5-edit-dark");

  const phone = await open(`${server.url}/#${id}`, { ...PHONE, colorScheme: "light", locale: "pt-PT" });
  await untilTurn(phone, "done");
  await phone.waitForSelector("math");
  await picture(phone, "screenshot-phone", README);
  await phone.getByRole("button", { name: "Mostrar conversas" }).click();
  await picture(phone, "6-phone-drawer");
  const phoneDark = await open(server.url, { ...PHONE, colorScheme: "dark", locale: "pt-PT" });
  await phoneDark.waitForSelector('[data-state="connected"]');
  await picture(phoneDark, "7-phone-dark-pt");
});

test("pictures of the engine in the browser", async () => {
  mkdirSync(FOLDER, { recursive: true });
  const server = await chatServer({ "engine.kind": "mistralrs", "engine.max_running": 1 });
  later(() => server.stop());
  const page = await open(server.url, { ...DESKTOP, colorScheme: "light" });
  await page.waitForSelector('[data-state="connected"]');
  await page.route("**/file*", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 500));
    await route.continue();
  });
  const local = page.locator(".local");
  const shown = async (name: string): Promise<void> => {
    await local.scrollIntoViewIfNeeded();
    await picture(page, name);
  };
  await page.getByRole("button", { name: "Settings" }).click();
  await local.getByRole("button", { name: "Load", exact: true }).waitFor();
  await shown("8-local-needs");
  await local.getByRole("button", { name: "Load", exact: true }).click();
  await local.getByText(/left$/).waitFor();
  await shown("9-local-loading");
  await local.getByRole("button", { name: "Unload" }).waitFor({ timeout: 60_000 });
  await shown("10-local-loaded");
  await page.keyboard.press("Escape");
  await page.fill("#message", "water ".repeat(9000));
  await page.getByText("This message is longer than the model can read").waitFor();
  await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
  await picture(page, "11-too-long");
  await ask(page, "Write a long story about a river, at least five hundred words.");
  await untilText(page, 200);
  await server.stop();
  await page.getByRole("button", { name: "Continue in this browser" }).waitFor();
  await picture(page, "12-cut");
  await page.getByRole("button", { name: "Continue in this browser" }).click();
  await page.waitForSelector('.turn:last-of-type[data-status="streaming"] .outcome, .turn:last-of-type .where-ran');
  await page.waitForTimeout(4000);
  await picture(page, "13-continuing-here");
  await page.keyboard.press("Escape");
  await untilTurn(page, "stopped");
  await ask(page, "What is photosynthesis, in two sentences?");
  await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
  await untilTurn(page, "done", "cut");
  await picture(page, "14-answered-here");
  await page.setViewportSize({ width: 390, height: 844 });
  await page.locator(".scrim").click({ position: { x: 370, y: 400 } });
  await picture(page, "15-answered-here-phone");
  await page.evaluate(() => document.documentElement.setAttribute("data-theme", "dark"));
  await page.getByRole("button", { name: "Settings" }).click();
  await local.scrollIntoViewIfNeeded();
  await picture(page, "16-local-phone-dark");
});
