/** Tests a conversation in several tabs, which all show the same turns. On the scripted engine. */

import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { startProxy } from "../test/support/proxy.ts";
import { type Server, scripted } from "../test/support/server.ts";
import { ask, chatServer, lastTurn, later, open, shownText, stored, untilText, untilTurn, words } from "./support.ts";

async function serve(settings: Record<string, string | number>): Promise<Server> {
  const server = await chatServer(settings);
  later(() => server.stop());
  return server;
}

const texts = (page: Page): Promise<string[]> => page.locator(".turn .prose").allTextContents();
const prompts = (page: Page): Promise<string[]> => page.locator(".turn .question > p").allTextContents();

async function untilTurns(page: Page, count: number): Promise<void> {
  await page.waitForFunction((n) => document.querySelectorAll(".turn").length === n, count);
}

/** Opens the same address as another user: in another browser without stored state. */
async function another(page: Page): Promise<Page> {
  await page.waitForURL(/#conv_/);
  return open(page.url());
}

describe("a second tab", () => {
  test("shows a running answer, and the turns before it", async () => {
    const { url } = await serve(scripted(150, 60));
    const first = await open(url);
    await ask(first, "one");
    await untilText(first, 60);
    const second = await another(first);
    const begun = await untilText(second, 100);
    expect(await first.getAttribute(lastTurn, "data-status")).toBe("streaming");
    await Promise.all([untilTurn(first, "done"), untilTurn(second, "done")]);
    expect(await texts(second)).toEqual(await texts(first));
    expect((await texts(second))[0]?.startsWith(begun.trim())).toBe(true);
  });

  test("shows the other tab's turns as they begin, in both directions", async () => {
    const { url } = await serve(scripted(120, 60));
    const first = await open(url);
    await ask(first, "one");
    await untilTurn(first, "done");
    const second = await another(first);
    await untilTurn(second, "done");
    await ask(second, "two");
    await untilTurns(first, 2);
    await untilText(first, 40);
    expect(await second.getAttribute(lastTurn, "data-status")).toBe("streaming");
    await Promise.all([untilTurn(first, "done"), untilTurn(second, "done")]);
    await ask(first, "three");
    await untilTurns(second, 3);
    await Promise.all([untilTurn(first, "done"), untilTurn(second, "done")]);
    for (const page of [first, second]) expect(await prompts(page)).toEqual(["one", "two", "three"]);
    expect(await texts(second)).toEqual(await texts(first));
  });

  test("shows the other tab's regenerated answer as another version", async () => {
    const { url } = await serve(scripted(30, 0));
    const first = await open(url);
    for (const prompt of ["one", "two"]) {
      await ask(first, prompt);
      await untilTurn(first, "done");
    }
    const second = await first.context().newPage();
    await second.goto(first.url());
    await untilTurn(second, "done");
    const before = first.url();
    await first.getByRole("button", { name: "Regenerate" }).click();
    await first.waitForURL((address) => address.href !== before);
    await untilTurn(first, "done");
    await first.locator(".versions", { hasText: "2/2" }).waitFor();
    await second.locator(".versions", { hasText: "1/2" }).waitFor();
    await second.getByRole("button", { name: "Next version" }).click();
    await second.locator(".versions", { hasText: "2/2" }).waitFor();
    for (const page of [first, second]) expect(await prompts(page)).toEqual(["one", "two"]);
  });

  test("can stop the other tab's answer", async () => {
    const { url } = await serve(scripted(3000, 60));
    const first = await open(url);
    await ask(first, "one");
    await untilText(first, 40);
    const second = await another(first);
    await untilText(second, 40);
    await second.keyboard.press("Escape");
    await Promise.all([untilTurn(first, "stopped"), untilTurn(second, "stopped")]);
    expect(await texts(second)).toEqual(await texts(first));
  });

  test("shows the turns that it missed without a network", async () => {
    const { url } = await serve(scripted(30, 0));
    const first = await open(url);
    await ask(first, "one");
    await untilTurn(first, "done");
    await first.waitForURL(/#conv_/);
    const network = await startProxy(url);
    later(() => network.close());
    const second = await open(network.url + new URL(first.url()).hash);
    await untilTurn(second, "done");
    network.onServerData = () => "cut";
    network.cut();
    for (const prompt of ["two", "three"]) {
      await ask(first, prompt);
      await untilTurn(first, "done");
    }
    network.onServerData = () => "pass";
    await untilTurns(second, 3);
    await untilTurn(second, "done");
    expect(await texts(second)).toEqual(await texts(first));
  });
});

describe("the address", () => {
  test("names the conversation; a new chat has one of its own", async () => {
    const { url } = await serve(scripted(10, 0));
    const page = await open(url);
    await ask(page, "one");
    await untilTurn(page, "done");
    await page.waitForURL(/#conv_/);
    const before = page.url();
    await page.getByRole("button", { name: "New chat" }).click();
    expect(page.url()).toBe(`${url}/`);
    await ask(page, "two");
    await untilTurn(page, "done");
    expect(page.url()).not.toBe(before);
    const other = await open(before);
    await untilTurn(other, "done");
    expect(await prompts(other)).toEqual(["one"]);
  });

  test("of a deleted conversation shows an empty chat with a notice", async () => {
    const { url } = await serve(scripted(10, 0));
    const page = await open(`${url}#conv_gone`);
    await page.waitForURL((address) => address.hash === "");
    await page.waitForSelector('.welcome [role="alert"]');
    expect(await page.textContent('.welcome [role="alert"]')).toBe("This conversation no longer exists.");
    await ask(page, "one");
    await untilTurn(page, "done");
    expect(await page.textContent("main")).not.toContain("no longer exists");
    const id = (await page.getAttribute(lastTurn, "data-response-id")) ?? "";
    expect(words(await shownText(page))).toBe(words((await stored(url, id)).text));
  });
});
