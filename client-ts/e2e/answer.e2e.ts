/**
 * Tests the parts of an answer besides its text: reasoning, calls, the place in the queue, a server without room. The
 * test plays the server.
 */

import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { answering, type Json, type Output } from "../test/support/fake-socket.ts";
import { type StandIn, standIn } from "./stand-in.ts";
import { ask, lastTurn, later, open, untilTurn, violations } from "./support.ts";

async function serve(models?: Json[]): Promise<StandIn> {
  const server = await standIn(models);
  later(() => server.stop());
  return server;
}

/** Asks a question. Returns the events of an answer with these outputs. */
async function asking(server: StandIn, page: Page, outputs: Output[]): Promise<Json[]> {
  const create = server.next("response.create");
  await ask(page, "hello");
  const { stream_id } = await create;
  return answering("resp_1", stream_id, outputs);
}

const indexOf = (events: Json[], type: string): number => events.findIndex((event) => event["type"] === type);

describe("thoughts", () => {
  test("are a closed part that says how long they took, and can be opened and reloaded", async () => {
    const server = await serve();
    const page = await open(server.url);
    const events = await asking(server, page, [
      { thoughts: ["Rivers flow down.", "So do I."] },
      { text: "Down it goes." },
    ]);
    const delta = indexOf(events, "response.reasoning_summary_text.delta");
    server.say(...events.slice(0, delta + 1));
    await page.waitForSelector(".thoughts");
    const summary = page.locator(`${lastTurn} .thoughts summary`);
    expect(await summary.textContent()).toBe("Thinking…");
    expect(await page.locator(`${lastTurn} .thoughts p`).isVisible()).toBe(false);
    await page.focus(`${lastTurn} summary`);
    await page.keyboard.press("Enter");
    expect(await page.textContent(`${lastTurn} .thoughts p`)).toBe("Rivers fl");
    expect(await page.locator(`${lastTurn} .thoughts p`).isVisible()).toBe(true);
    server.say(...events.slice(delta + 1));
    await untilTurn(page, "done");
    expect(await summary.textContent()).toMatch(/^Thought for \d+ ms$/);
    expect(await page.textContent(`${lastTurn} .thoughts p`)).toBe("Rivers flow down.\n\nSo do I.");
    expect(await page.textContent(`${lastTurn} .prose`)).toBe("Down it goes.");
    await page.reload();
    expect(await page.textContent(`${lastTurn} .thoughts p`)).toBe("Rivers flow down.\n\nSo do I.");
  });
});

describe("a call", () => {
  test("is a card with its arguments as they are written", async () => {
    const server = await serve();
    const page = await open(server.url);
    const args = JSON.stringify({ city: "Lisbon", days: [1, 2, 3], units: { temperature: "celsius", wind: "knots" } });
    const events = await asking(server, page, [
      { text: "Looking." },
      { call: "get_weather", callId: "a", arguments: args },
    ]);
    const delta = indexOf(events, "response.function_call_arguments.delta");
    server.say(...events.slice(0, delta + 1));
    const card = page.locator(`${lastTurn} .call`);
    await card.waitFor();
    await page.waitForFunction(
      (half) => document.querySelector(".call pre")?.textContent === half,
      args.slice(0, Math.ceil(args.length / 2)),
    );
    expect(await card.locator("figcaption").textContent()).toContain("Calling get_weather");
    server.say(...events.slice(delta + 1));
    await untilTurn(page, "done");
    expect(await card.locator("figcaption").textContent()).toContain("Call of get_weather");
    expect(JSON.parse((await card.locator("pre").textContent()) ?? "")).toEqual(JSON.parse(args));
  });
});

describe("waiting", () => {
  test("shows the place in the queue and the estimated wait", async () => {
    const server = await serve();
    const page = await open(server.url);
    const events = await asking(server, page, [{ text: "Hello." }]);
    const queued = { type: "caudal:response.queued", response_id: "resp_1", stream_id: events[0]?.["stream_id"] };
    server.say(events[0] ?? {}, { ...queued, position: 3, estimated_wait_ms: 12_400 });
    await page.getByText("Number 3 in line, about 12 s", { exact: true }).waitFor();
    server.say({ ...queued, position: 1, estimated_wait_ms: 2000 });
    await page.getByText("Next in line, about 2.0 s", { exact: true }).waitFor();
    server.say(...events.slice(1));
    await untilTurn(page, "done");
    expect(await page.locator(".waiting").count()).toBe(0);
  });

  test("counts down to the next try when the server has no room, and tries by itself", async () => {
    const server = await serve();
    const page = await open(server.url);
    const create = server.next("response.create");
    await ask(page, "hello");
    const first = await create;
    const again = server.next("response.create");
    const error = { type: "server_error", code: "server_overloaded", message: "The queue is full.", param: null };
    server.say({ type: "error", status: 503, error, retry_after_ms: 4000, stream_id: first["stream_id"] });
    await page.getByText(/^The server is busy\. Trying again in \d s\.$/).waitFor();
    const second = await again;
    expect(second["client_request_id"]).toBe(first["client_request_id"]);
    server.say(...answering("resp_1", second["stream_id"], [{ text: "Hello." }]));
    await untilTurn(page, "done");
  });

  test("for a server without room can be stopped", async () => {
    const server = await serve();
    const page = await open(server.url);
    const create = server.next("response.create");
    await ask(page, "hello");
    const { stream_id } = await create;
    const error = { type: "server_error", code: "server_overloaded", message: "The queue is full.", param: null };
    server.say({ type: "error", status: 503, error, retry_after_ms: 60_000, stream_id });
    await page.getByText(/Trying again in/).waitFor();
    await page.keyboard.press("Escape");
    await untilTurn(page, "stopped");
    expect(server.asked.filter((message) => message["type"] === "response.create")).toHaveLength(1);
  });
});

describe("the model", () => {
  test("is chosen if there are several, and remembered", async () => {
    const server = await serve([{ id: "small" }, { id: "large", sampling: { temperature: 0.6 } }]);
    const page = await open(server.url);
    const picker = page.getByRole("combobox", { name: "Model" });
    await picker.selectOption("large");
    const create = server.next("response.create");
    await ask(page, "hello");
    const { model, temperature } = await create;
    expect([model, temperature]).toEqual(["large", undefined]);
    await page.reload();
    await page.waitForSelector('[data-state="connected"]');
    expect(await picker.inputValue()).toBe("large");
  });

  test("is named if there is one", async () => {
    const server = await serve();
    const page = await open(server.url);
    await page.getByText("stand-in", { exact: true }).waitFor();
    expect(await page.locator("select").count()).toBe(0);
  });
});

test.each(["light", "dark"] as const)(
  "axe finds nothing wrong in %s, and nothing moves that has been said",
  async (colorScheme) => {
    const server = await serve([{ id: "small" }, { id: "large" }]);
    for (const viewport of [
      { width: 1280, height: 900 },
      { width: 320, height: 800 },
    ]) {
      const page = await open(server.url, { colorScheme, viewport, reducedMotion: "reduce" });
      await page.waitForSelector('[data-state="connected"]');
      const args = JSON.stringify({ city: "Lisbon", note: "a long note ".repeat(20) });
      const events = await asking(server, page, [
        { thoughts: ["Rivers flow down. ".repeat(20)] },
        { text: "Down it goes." },
        { call: "get_weather", callId: "a", arguments: args },
      ]);
      const question = page.locator(`${lastTurn} .question`);
      const top = async (): Promise<number | undefined> => (await question.boundingBox())?.y;
      const before = await top();
      const stops = [
        ["response.reasoning_summary_text.delta", ".thoughts"],
        ["response.output_text.delta", ".prose p"],
        ["response.function_call_arguments.delta", ".call pre"],
        ["response.completed", '[data-status="done"] .call'],
      ] as const;
      let said = 0;
      for (const [stop, shown] of stops) {
        const until = indexOf(events, stop) + 1;
        server.say(...events.slice(said, until));
        said = until;
        await page.waitForSelector(shown);
        expect(await violations(page)).toEqual([]);
        expect(await top()).toBe(before);
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(viewport.width);
      }
      await page.click(`${lastTurn} .thoughts summary`);
      expect(await violations(page)).toEqual([]);
    }
  },
);

describe("an answer that is nested too deep", () => {
  test("is plain text, and the page goes on after a reload", async () => {
    const server = await serve();
    const page = await open(server.url);
    const bomb = ">".repeat(2500);
    server.say(...(await asking(server, page, [{ text: bomb }])));
    await untilTurn(page, "done");
    expect(await page.textContent(`${lastTurn} .prose .plain`)).toBe(bomb);
    await page.reload();
    expect(await page.textContent(`${lastTurn} .prose .plain`)).toBe(bomb);
    server.say(...(await asking(server, page, [{ text: "Still *here*." }])));
    await untilTurn(page, "done");
    expect(await page.textContent(`${lastTurn} .prose em`)).toBe("here");
  });
});
