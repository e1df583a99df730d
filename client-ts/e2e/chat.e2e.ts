/** Tests the page on the real model. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Server } from "../test/support/server.ts";
import {
  ask,
  chatServer,
  lastTurn,
  open,
  responseId,
  shownText,
  stored,
  untilText,
  untilTurn,
  violations,
  words,
} from "./support.ts";

let server: Server;

beforeAll(async () => {
  // A small model may never end a story. The limit ends it, but leaves time to reload in the middle.
  server = await chatServer({
    "engine.kind": "mistralrs",
    "engine.max_running": 1,
    "generation.max_output_tokens": 600,
  });
});

afterAll(async () => {
  await server?.stop();
});

describe("an answer", () => {
  test("grows on the screen: five paints or more before it is complete", async () => {
    const page = await open(server.url);
    await page.evaluate((selector) => {
      const lengths = new Set<number>();
      // A frame sees the text that the frame before it painted.
      const look = (): void => {
        const turn = document.querySelector(selector);
        if (turn?.getAttribute("data-status") === "streaming")
          lengths.add(turn.querySelector(".prose")?.textContent.length ?? 0);
        lengths.delete(0);
        document.documentElement.dataset["paints"] = String(lengths.size);
        requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    }, lastTurn);
    await ask(page, "Explain how a river finds its way to the sea.");
    await untilTurn(page, "done", "cut");
    const paints = await page.getAttribute("html", "data-paints");
    expect(Number(paints)).toBeGreaterThanOrEqual(5);
    expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/TTFT \d.* tok\/s\d+ tokens$/);
  });

  test("stops within half a second and releases its permit", async () => {
    const page = await open(server.url);
    await ask(page, "Write a long story about a river, at least two thousand words.");
    await untilText(page, 60);
    const first = await responseId(page);
    const stoppedAfter = await page.evaluate(async (selector) => {
      const before = performance.now();
      document.querySelector<HTMLElement>("button.stop")?.click();
      while (document.querySelector(selector)?.getAttribute("data-status") !== "stopped") {
        await new Promise(requestAnimationFrame);
      }
      return performance.now() - before;
    }, lastTurn);
    expect(stoppedAfter).toBeLessThan(500);
    const { status, text } = await stored(server.url, first);
    expect(status).toBe("incomplete");
    expect(words(await shownText(page))).toBe(words(text));

    // The server runs one generation at a time: the next answer begins only if the first has released its permit.
    await ask(page, "Say hello.");
    await untilText(page, 1);
    expect(await page.isVisible("text=/in line/")).toBe(false);
    expect((await stored(server.url, first)).text).toBe(text);
    await untilTurn(page, "done", "cut");
  });

  test("goes on after a reload in mid-stream; nothing is lost or repeated", async () => {
    const page = await open(server.url);
    await ask(page, "Write a long story about a river, at least five hundred words.");
    const before = await untilText(page, 150);
    const id = await responseId(page);
    await page.reload();
    const after = await untilText(page, before.length);
    expect((await stored(server.url, id)).status).toBe("in_progress");
    expect(words(after).startsWith(words(before).slice(0, -2))).toBe(true);
    await untilTurn(page, "done", "cut");
    expect(await responseId(page)).toBe(id);
    const { text } = await stored(server.url, id);
    expect(words(text).length).toBeGreaterThan(words(before).length);
    expect(words(await shownText(page))).toBe(words(text));
  });
});

test("a conversation goes on; its last answer is written again as another version, and the first one stays", async () => {
  const page = await open(server.url);
  await ask(page, "My name is Ines. Greet me by my name.");
  await untilTurn(page, "done", "cut");
  await ask(page, "What is my name?");
  await untilTurn(page, "done", "cut");
  const second = await responseId(page);
  const conversation = (): string => new URL(page.url()).hash.slice(1);
  const said = async (): Promise<string[]> => {
    const items = await (await fetch(`${server.url}/v1/conversations/${conversation()}/items?order=asc`)).json();
    return (items as { data: { role: string; content: { text: string }[] }[] }).data.map(
      ({ role, content }) => `${role}: ${words(content.map(({ text }) => text).join(""))}`,
    );
  };
  const before = await said();
  expect(before).toHaveLength(4);
  const first = conversation();
  const answer = words(await shownText(page));
  await page.getByRole("button", { name: "Regenerate" }).click();
  await page.waitForSelector(`${lastTurn}:not([data-response-id="${second}"])[data-response-id]`);
  await untilTurn(page, "done", "cut");
  expect(await page.locator(".turn").count()).toBe(2);
  const after = await said();
  expect(conversation()).not.toBe(first);
  expect(after.slice(0, 3)).toEqual(before.slice(0, 3));
  expect(after[3]).toBe(`assistant: ${words(await shownText(page))}`);
  await page.getByRole("button", { name: "Previous version" }).click();
  await page.waitForURL((address) => address.hash === `#${first}`);
  expect(words(await shownText(page))).toBe(answer);
});

test("the model names a conversation, and an edited question has an answer of its own", async () => {
  const page = await open(server.url);
  await ask(page, "What is a river? One sentence.");
  await untilTurn(page, "done", "cut");
  const row = page.locator('.chats li[data-current="true"] .chat');
  await row.and(page.locator(":not(:text-is('New conversation'))")).waitFor();
  const { hash } = new URL(page.url());
  await page.locator(".turn").hover();
  await page.getByRole("button", { name: "Edit message" }).click();
  await page.locator(".edit textarea").fill("What is a lake? One sentence.");
  await page.locator(".edit").getByRole("button", { name: "Send" }).click();
  await page.waitForURL((address) => address.hash !== hash);
  await untilTurn(page, "done", "cut");
  await page.locator(".versions", { hasText: "2/2" }).waitFor();
  expect(await page.textContent(`${lastTurn} .figures`)).toMatch(/^On the server/);
  await page.getByRole("button", { name: "Previous version" }).click();
  await page.waitForURL((address) => address.hash === hash);
  expect(await page.textContent(`${lastTurn} .question > p`)).toBe("What is a river? One sentence.");
});

test("an answer whose prompt was cached is marked", async () => {
  const page = await open(server.url);
  await page.waitForSelector('[data-state="connected"]');
  for (const isCached of [false, true]) {
    await ask(page, "How deep is the deepest lake? One sentence.");
    await untilTurn(page, "done", "cut");
    expect(await page.locator(`${lastTurn} .cached`).count()).toBe(isCached ? 1 : 0);
    if (!isCached) await page.getByRole("button", { name: "New chat" }).click();
  }
  expect(await page.getAttribute(`${lastTurn} .cached`, "title")).toBe("The whole prompt was in the cache");
  expect(await violations(page)).toEqual([]);
});

test("with a JSON schema in the settings every answer is JSON of that shape", async () => {
  const page = await open(server.url);
  await page.waitForSelector('[data-state="connected"]');
  await page.getByRole("button", { name: "Settings" }).click();
  const field = page.getByLabel("JSON schema of answers");
  await field.fill("{ no JSON");
  await page.getByText("This is not a JSON object.").waitFor();
  expect(await violations(page)).toEqual([]);
  const schema = {
    type: "object",
    properties: { city: { type: "string", maxLength: 20 }, size: { enum: ["small", "large"] } },
    required: ["city", "size"],
    additionalProperties: false,
  };
  await field.fill(JSON.stringify(schema));
  await page.keyboard.press("Escape");
  for (const prompt of ["Name a city.", "Name another one."]) {
    const before = await page.locator(".turn").count();
    await ask(page, prompt);
    await page.waitForFunction((n) => document.querySelectorAll(".turn").length > n, before);
    await untilTurn(page, "done");
    const { text } = await stored(server.url, await responseId(page));
    expect(JSON.parse(text)).toEqual({ city: expect.any(String), size: expect.stringMatching(/^(small|large)$/) });
    expect(words(await shownText(page))).toBe(words(text));
  }
});
