/** Tests layout, accessibility and bad networks, on the scripted engine. */

import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { startProxy } from "../test/support/proxy.ts";
import { type Server, scripted } from "../test/support/server.ts";
import {
  ask,
  chatServer,
  lastTurn,
  later,
  message,
  open,
  responseId,
  shownText,
  stored,
  untilText,
  untilTurn,
  violations,
  words,
} from "./support.ts";

const WIDE = [
  "A table and code that are wider than a phone:",
  `| ${"a long heading | ".repeat(8)}\n|${"---|".repeat(8)}\n| ${"a long cell | ".repeat(8)}`,
  `\`\`\`text\n${"wide ".repeat(60)}\n\`\`\``,
  `And a word: ${"Donaudampfschifffahrt".repeat(12)}`,
  "1. one\n2. two\n\n> quote\n\n[a link](https://example.org)",
].join("\n\n");

async function serve(settings: Record<string, string | number>): Promise<Server> {
  const server = await chatServer(settings);
  later(() => server.stop());
  return server;
}

/** Shows a conversation with every kind of content. */
async function fill(page: Page): Promise<void> {
  const turn = {
    prompt: `Please ${"look at this. ".repeat(20)}`,
    askedAt: 0,
    firstTokenAt: 210,
  };
  const turns = [
    { ...turn, key: "a", responseId: "resp_a", status: "done", answer: WIDE, tokens: 120, tokensPerSecond: 80 },
    { ...turn, key: "b", responseId: "resp_b", status: "stopped", answer: "Half an answer" },
    {
      ...turn,
      key: "c",
      status: "failed",
      answer: "",
      problem: { message: "The server is busy.", canRetry: true },
    },
  ];
  await page.evaluate((saved) => localStorage.setItem("caudal.chat.v2", saved), JSON.stringify({ turns }));
  await page.evaluate(() => history.replaceState(null, "", location.pathname));
  await page.reload();
  await page.waitForSelector(lastTurn);
}

describe("the layout", () => {
  test.each([320, 390, 1280])("has no horizontal scroll at %i px", async (width) => {
    const { url } = await serve(scripted(5, 0));
    const page = await open(url, { viewport: { width, height: 800 }, isMobile: width < 500, hasTouch: width < 500 });
    for (const prepare of [async () => undefined, fill]) {
      await prepare(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
    }
  });

  test("follows the end of the answer until the reader scrolls up, and again on request", async () => {
    const { url } = await serve(scripted(3000, 150));
    const page = await open(url, { viewport: { width: 390, height: 500 } });
    const toEnd = (): Promise<number> =>
      page.evaluate(() => document.documentElement.scrollHeight - innerHeight - scrollY);
    await ask(page, "hello");
    await untilText(page, 2000);
    expect(await toEnd()).toBeLessThan(5);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    await page.mouse.move(200, 200);
    await page.mouse.wheel(0, -400);
    await page.waitForSelector(".to-bottom");
    const there = await page.evaluate(() => scrollY);
    await untilText(page, (await shownText(page)).length + 1000);
    expect(await page.evaluate(() => scrollY)).toBe(there);
    await page.click(".to-bottom");
    await untilText(page, (await shownText(page)).length + 500);
    expect(await toEnd()).toBeLessThan(5);
  });
});

describe("access", () => {
  test.each(["light", "dark"] as const)("axe finds nothing wrong in %s", async (colorScheme) => {
    const { url } = await serve(scripted(6000, 100));
    for (const viewport of [
      { width: 1280, height: 800 },
      { width: 390, height: 800 },
    ]) {
      const page = await open(url, { colorScheme, viewport, reducedMotion: "reduce" });
      await page.waitForSelector('[data-state="connected"]');
      expect(await violations(page)).toEqual([]);
      await ask(page, "hello");
      await untilText(page, 40);
      expect(await violations(page)).toEqual([]);
      await page.press(message, "Escape");
      await untilTurn(page, "stopped");
      await fill(page);
      expect(await violations(page)).toEqual([]);
    }
  });

  test("the keyboard does everything, and its focus is seen", async () => {
    const { url } = await serve(scripted(6000, 100));
    const page = await open(url);
    await page.waitForFunction(() => document.activeElement?.id === "message");
    await page.keyboard.type("first line");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("second line");
    await page.keyboard.press("Enter");
    await untilText(page, 20);
    expect(await page.textContent(`${lastTurn} .question p`)).toBe("first line\nsecond line");
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");

    const stops = new Map<string, boolean>();
    const walk = async (until: string): Promise<void> => {
      for (let n = 0; n < 30; n++) {
        await page.keyboard.press("Shift+Tab");
        const { name, seen } = await page.evaluate(() => {
          const element = document.activeElement as HTMLElement;
          const style = getComputedStyle(element);
          return {
            name: element.getAttribute("aria-label") ?? element.textContent,
            seen: style.outlineStyle !== "none",
          };
        });
        stops.set(name, seen);
        if (name === until) return;
      }
      throw new Error(`"${until}" is not reached by keyboard; what is: ${[...stops.keys()].join(", ")}`);
    };
    const stopped = await responseId(page);
    await walk("Regenerate answer");
    await page.keyboard.press("Enter");
    await page.waitForSelector(`${lastTurn}:not([data-response-id="${stopped}"])[data-response-id]`);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("message");
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    await walk("New chat");
    expect([...stops.values()]).not.toContain(false);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".welcome");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("message");
    // The chosen suggestion is removed from the page; the focus must not be lost.
    await page.focus(".welcome button");
    await page.keyboard.press("Enter");
    await untilText(page, 1);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("message");
  });

  test("a screen reader hears the answer, not each word", async () => {
    const { url } = await serve(scripted(100, 100));
    const page = await open(url);
    await page.evaluate(() => {
      const said: string[] = [];
      new MutationObserver(() => {
        said.push(document.querySelector('[role="status"]')?.textContent ?? "");
        document.documentElement.dataset["said"] = JSON.stringify(said);
      }).observe(document.querySelector('[role="status"]') as Element, {
        childList: true,
        characterData: true,
        subtree: true,
      });
    });
    await ask(page, "hello");
    await untilTurn(page, "done");
    await page.waitForFunction(() => document.documentElement.dataset["said"]?.includes("complete"));
    expect(JSON.parse((await page.getAttribute("html", "data-said")) ?? "")).toEqual([
      "Answering.",
      "The answer is complete.",
    ]);
    expect(await page.locator(`${lastTurn} [aria-live]`).count()).toBe(0);
  });
});

describe("when things go wrong", () => {
  test("a cut connection loses and repeats nothing", async () => {
    const server = await serve(scripted(200, 100));
    const network = await startProxy(server.url);
    later(() => network.close());
    const page = await open(network.url);
    await ask(page, "hello");
    await untilText(page, 100);
    network.cut();
    await untilText(page, 300);
    network.cut();
    await untilTurn(page, "done");
    expect(words(await shownText(page))).toBe(words((await stored(server.url, await responseId(page))).text));
  });

  test("a reload in mid-stream loses and repeats nothing", async () => {
    const { url } = await serve(scripted(500, 80));
    const page = await open(url);
    await ask(page, "hello");
    const before = await untilText(page, 200);
    const id = await responseId(page);
    await page.reload();
    expect((await untilText(page, before.length)).startsWith(before.trim())).toBe(true);
    expect((await stored(url, id)).status).toBe("in_progress");
    await untilTurn(page, "done");
    expect(words(await shownText(page))).toBe(words((await stored(url, id)).text));
  });

  test("a reload before the server's first event runs the request once", async () => {
    const server = await serve(scripted(50, 100));
    const network = await startProxy(server.url);
    later(() => network.close());
    const page = await open(network.url);
    const asked = new Promise<string>((resolve) => {
      network.onServerData = (data) => {
        const id = /"(resp_\w+)"/.exec(data)?.[1];
        if (id !== undefined) resolve(id);
        return id === undefined ? "pass" : "hold";
      };
    });
    await ask(page, "hello");
    const id = await asked;
    network.onServerData = () => "pass";
    await page.reload();
    await untilTurn(page, "done");
    expect(await responseId(page)).toBe(id);
  });

  test("a conversation that the server has deleted is created again", async () => {
    const first = await serve(scripted(10, 0));
    const page = await open(first.url);
    await ask(page, "one");
    await untilTurn(page, "done");
    await first.stop();
    const second = await serve({ ...scripted(10, 0), "server.bind": new URL(first.url).host });
    await ask(page, "two");
    await untilTurn(page, "done");
    const conversation = new URL(page.url()).hash.slice(1);
    const items = (await (await fetch(`${second.url}/v1/conversations/${conversation}/items?order=asc`)).json()) as {
      data: { role: string }[];
    };
    expect(items.data.map((item) => item.role)).toEqual(["user", "assistant", "user", "assistant"]);
  });

  test("a failure is described and can be retried", async () => {
    const { url } = await serve({ ...scripted(50, 0), "engine.scripted.fail_after": 5 });
    const page = await open(url);
    await ask(page, "hello");
    await untilTurn(page, "failed");
    expect(await page.textContent(`${lastTurn} [role="alert"]`)).toContain("could not finish");
    const first = await responseId(page);
    await page.getByRole("button", { name: "Try again" }).click();
    await page.waitForSelector(`${lastTurn}:not([data-response-id="${first}"])[data-response-id]`);
  });

  test("a message that is too long is reported before it is sent, and a shorter one is answered", async () => {
    const { url } = await serve(scripted(10, 0));
    const page = await open(url);
    await page.waitForSelector('[data-state="connected"]');
    await page.getByText("scripted", { exact: true }).waitFor();
    const tooLong = /^This message is longer than the model can read \(9,\d{3} of 8,192 tokens\)\. Shorten it\.$/;
    await ask(page, "word ".repeat(9000));
    await page.getByText(tooLong).waitFor();
    expect(await page.locator(".turn").count()).toBe(0);
    expect(await page.inputValue(message)).toContain("word word");
    expect(await violations(page)).toEqual([]);
    await ask(page, "a word");
    await untilTurn(page, "done");
    expect(await page.getByText(tooLong).count()).toBe(0);
  });

  test("a conversation that no longer fits is sent without its oldest turns, and the page reports it before and after", async () => {
    const { url } = await serve(scripted(10, 0));
    const page = await open(url);
    await page.getByText("scripted", { exact: true }).waitFor();
    await page.waitForSelector('[data-state="connected"]');
    for (const prompt of ["one ".repeat(3000), "two ".repeat(3000)]) {
      await ask(page, prompt);
      await page.locator(".question > p", { hasText: prompt.slice(0, 20) }).waitFor();
      await untilTurn(page, "done");
    }
    await page.fill(message, "three ".repeat(1500));
    await page.getByText("This conversation no longer fits").waitFor();
    expect(await violations(page)).toEqual([]);
    await page.press(message, "Enter");
    await page.locator(".question > p", { hasText: "three three" }).waitFor();
    await untilTurn(page, "done");
    expect(await page.textContent(lastTurn)).toContain("did not fit into the model's context and were left out (1)");
  });

  test("a server with keys asks for one", async () => {
    const keys = '[{ key = "correct-horse", tenant = "t" }]';
    const { url } = await serve({ ...scripted(10, 0), "auth.mode": "keys", "auth.keys": keys });
    const page = await open(url);
    await page.waitForFunction(() =>
      document.body.textContent?.includes("The server asks for a key or a client secret."),
    );
    await page.fill('input[type="password"]', "a-wrong-horse");
    await page.getByRole("button", { name: "Connect" }).click();
    await page.waitForSelector('.token [role="alert"]');
    expect(await page.textContent('.token [role="alert"]')).toBe(
      "The server does not accept this key or client secret.",
    );
    expect(await page.inputValue('input[type="password"]')).toBe("a-wrong-horse");
    expect(await page.textContent("body")).not.toContain("The connection is lost");
    expect(await violations(page)).toEqual([]);
    await page.fill('input[type="password"]', "correct-horse");
    await page.getByRole("button", { name: "Connect" }).click();
    await page.waitForSelector('[data-state="connected"]');
    await ask(page, "hello");
    await untilTurn(page, "done");
    expect(await page.isVisible('input[type="password"]')).toBe(false);
  });
});
