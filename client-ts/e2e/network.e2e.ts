/** Tests pages under faults: the network is gone for a while, the tab is frozen, the replica is killed. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startFleet } from "../test/support/fleet.ts";
import { startProxy } from "../test/support/proxy.ts";
import { scripted, startServer } from "../test/support/server.ts";
import { buildExamples, type Examples } from "./examples.ts";
import { later, open, renderers } from "./support.ts";

const STORY = scripted(6_000, 60);
/** How long a tab is frozen, and how long the network is gone. */
const FROZEN_MS = Number(process.env["FROZEN_MS"] ?? 12_000);
const GONE_MS = 5_000;

let examples: Examples;

beforeAll(async () => {
  examples = await buildExamples("react", "use-chat");
}, 60_000);

afterAll(() => examples?.remove());

const answer = "[data-answer]";

async function begin(page: Page): Promise<void> {
  await page.getByLabel("Message").fill("Tell me of a river.");
  await page.getByRole("button", { name: "Send" }).click();
  await page.waitForFunction((selector) => (document.querySelector(selector)?.textContent?.length ?? 0) > 60, answer);
}

const lengthOf = (page: Page): Promise<number> =>
  page.evaluate((selector) => document.querySelector(selector)?.textContent?.length ?? 0, answer);

/** Waits until the answer is longer than `than`. */
async function untilMore(page: Page, than: number, timeout: number): Promise<void> {
  await page.waitForFunction(
    ([selector, than]) => (document.querySelector(selector)?.textContent?.length ?? 0) > than,
    [answer, than] as const,
    { timeout },
  );
}

/** Stops the answer and checks that the page shows the server's text: no part is lost or repeated. */
async function stopAndCompare(page: Page, url: string): Promise<void> {
  // No client follows while the tab is frozen, so the server may have ended the answer already.
  const stop = page.getByRole("button", { name: "Stop" });
  if (await stop.isVisible()) await stop.dispatchEvent("click");
  await page.waitForFunction((selector) => {
    return ["ended", "ready"].includes(document.querySelector<HTMLElement>(selector)?.dataset["status"] ?? "");
  }, answer);
  const conversation = new URL(page.url()).hash.slice(1);
  const items = await (await fetch(`${url}/v1/conversations/${conversation}/items`)).json();
  const [last] = (items as { data: { content: { text: string }[] }[] }).data;
  expect(await page.textContent(answer)).toBe(last?.content.map(({ text }) => text).join(""));
}

test.each(["react", "use-chat"])("%s: the network is gone for 5 s, and the answer goes on", async (name) => {
  const server = await startServer({ ...STORY, "server.chat_dir": examples.folder(name) });
  later(() => server.stop());
  const network = await startProxy(server.url);
  later(() => network.close());
  const page = await open(network.url);
  await begin(page);
  const { target } = network;
  network.target = "http://127.0.0.1:9";
  network.cut();
  if (name === "react") await page.waitForSelector('[data-status="recovering"]', { timeout: 1_000 });
  await new Promise((resolve) => setTimeout(resolve, GONE_MS));
  const before = await lengthOf(page);
  network.target = target;
  await untilMore(page, before + 100, 15_000);
  await stopAndCompare(page, server.url);
});

test("react: a frozen tab whose connection has died goes on within 3 s of waking", async () => {
  const server = await startServer({ ...STORY, "server.chat_dir": examples.folder("react") });
  later(() => server.stop());
  const network = await startProxy(server.url);
  later(() => network.close());
  const page = await open(network.url);
  await begin(page);
  // From now on this connection is dead without being closed.
  network.onServerData = () => "hold";
  const pids = await renderers(page);
  const before = await lengthOf(page);
  for (const pid of pids) process.kill(pid, "SIGSTOP");
  try {
    await new Promise((resolve) => setTimeout(resolve, FROZEN_MS));
  } finally {
    network.onServerData = () => "pass";
    for (const pid of pids) process.kill(pid, "SIGCONT");
  }
  await untilMore(page, before + 100, 3_000);
  await stopAndCompare(page, server.url);
});

test("use-chat: behind nginx the replicas are killed, the page is reloaded, and the answer goes on", async () => {
  const fleet = await startFleet({ ...STORY, "server.chat_dir": examples.folder("use-chat") });
  later(() => fleet.stop());
  const page = await open(fleet.url);
  await begin(page);
  await fleet.killEach();
  await untilMore(page, await lengthOf(page), 15_000);
  await page.reload();
  await page.waitForFunction((selector) => (document.querySelector(selector)?.textContent?.length ?? 0) > 60, answer);
  await untilMore(page, await lengthOf(page), 15_000);
  await stopAndCompare(page, fleet.url);
});
