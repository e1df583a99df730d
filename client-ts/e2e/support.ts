import { existsSync } from "node:fs";
import axe from "axe-core";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, expect } from "vitest";
import { type Server, startServer } from "../test/support/server.ts";

const CHAT = new URL("../chat/dist", import.meta.url).pathname;

/** Flags that keep the browser from connecting to anything except the page under test. */
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

let browser: Browser | undefined;
const cleanups: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

afterAll(async () => {
  await browser?.close();
  browser = undefined;
});

/** Registers a cleanup that runs after the test. */
export function later(cleanup: () => Promise<void>): void {
  cleanups.push(cleanup);
}

export async function chatServer(settings: Record<string, string | number>): Promise<Server> {
  if (!existsSync(`${CHAT}/index.html`)) throw new Error("The page is not built: run `npm run build:chat` first.");
  return startServer({ "server.chat_dir": CHAT, ...settings });
}

/** Launches a browser with WebGPU on the CPU, if this Chromium supports it. Closes it after the test. */
export async function browserWithWebGpu(): Promise<Browser> {
  const flags = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader"];
  const browser = await launch([...FLAGS.filter((flag) => flag !== "--disable-gpu"), ...flags]);
  later(() => browser.close());
  return browser;
}

function launch(args: string[]): Promise<Browser> {
  const executablePath = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
  return chromium.launch({ executablePath, args, ignoreDefaultArgs: ["--headless=new"] });
}

/** Opens a page with a storage of its own. The page must not report an error. */
export async function open(url: string, options: BrowserContextOptions = {}): Promise<Page> {
  browser ??= await launch(FLAGS);
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const errors: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  later(async () => {
    await context.close();
    expect(errors).toEqual([]);
  });
  await page.goto(url);
  return page;
}

/** Returns the ids of the processes that run pages. */
export async function renderers(page: Page): Promise<number[]> {
  const session = await page.context().browser()?.newBrowserCDPSession();
  if (!session) throw new Error("There is no browser.");
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  return processInfo.filter(({ type }) => type === "renderer").map(({ id }) => id);
}

export const message = "#message";
export const lastTurn = ".turn:last-of-type";

export async function ask(page: Page, prompt: string): Promise<void> {
  await page.fill(message, prompt);
  await page.press(message, "Enter");
}

/** Waits until the last turn has one of the statuses. */
export async function untilTurn(page: Page, ...statuses: string[]): Promise<void> {
  await page.waitForSelector(statuses.map((status) => `${lastTurn}[data-status="${status}"]`).join(), {
    timeout: 90_000,
  });
}

/** Waits until the answer has this length. */
export async function untilText(page: Page, length: number): Promise<string> {
  const handle = await page.waitForFunction(
    ([selector, least]) => {
      const text = document.querySelector(`${selector} .prose`)?.textContent ?? "";
      return text.length >= least ? text : undefined;
    },
    [lastTurn, length] as const,
    { timeout: 90_000 },
  );
  return String(await handle.jsonValue());
}

export async function shownText(page: Page): Promise<string> {
  return (await page.textContent(`${lastTurn} .prose`)) ?? "";
}

export async function responseId(page: Page): Promise<string> {
  await page.waitForSelector(`${lastTurn}[data-response-id]`);
  return (await page.getAttribute(lastTurn, "data-response-id")) ?? "";
}

interface Stored {
  status: string;
  output: { content: { text: string }[] }[];
}

export async function stored(url: string, id: string): Promise<{ status: string; text: string }> {
  const response = (await (await fetch(`${url}/v1/responses/${id}`)).json()) as Stored;
  return { status: response.status, text: response.output.flatMap((item) => item.content.map((c) => c.text)).join("") };
}

/** Returns the words of a text that are shown with and without Markdown: all except the numbers of lists. */
export function words(text: string): string {
  return text
    .replace(/^\s*\d+[.)]\s/gm, "")
    .replace(/^```\w*$/gm, "")
    .replace(/[^\p{L}\p{N}]+/gu, "");
}

/** Returns the violations that axe finds on the page. */
export async function violations(page: Page): Promise<string[]> {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(axe.source);
  return page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: typeof import("axe-core") };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
  });
}
