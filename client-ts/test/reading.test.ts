/** Tests readers: slow ones, responses without one, readers that wait for frames. */

import { describe, expect, test, vi } from "vitest";
import { eventsOf } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";
import { all } from "./support/online.ts";

const { net, connect, settle, text } = offline();

const words = Array.from({ length: 6_000 }, (_, n) => `w${n} `);
const resumed = { type: "caudal:response.resumed", response_id: "resp_1", stream_id: "lane-0" };

describe("an unread response", () => {
  test("is buffered up to a bound; a reader gets the rest from the server's log", async () => {
    const handle = connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", words);
    for (const event of events) net.last.receive(event);
    expect((await handle.final()).status).toBe("completed");
    expect(handle.lastSequenceNumber).toBe(4_095);
    expect(net.last.sentOf("caudal:response.resume")).toEqual([]);
    const read = text(handle);
    await settle();
    expect(net.last.sentOf("caudal:response.resume")).toEqual([
      { type: "caudal:response.resume", response_id: "resp_1", starting_after: 4_095, stream_id: "lane-0" },
    ]);
    for (const event of events.slice(4_096)) net.last.receive(event);
    expect(await read).toBe(words.join(""));
    expect(await text(handle)).toBe(words.join(""));
  });

  test("ends its readers with an error when the server no longer has the rest", async () => {
    const handle = connect().responses.create({ input: "hello", store: false });
    await settle();
    net.last.accept();
    for (const event of eventsOf("resp_1", "lane-0", words)) net.last.receive(event);
    const read = expect(text(handle)).rejects.toMatchObject({ name: "ResumeExpiredError" });
    await settle();
    net.last.receive({ type: "error", status: 410, error: { code: "resume_window_expired" }, stream_id: "lane-0" });
    await read;
    expect((await handle.final()).status).toBe("completed");
  });

  test("that is read as it comes is never refilled", async () => {
    const handle = connect().responses.create({ input: "hello" });
    const read = text(handle);
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", words);
    for (let from = 0; from < events.length; from += 1_000) {
      for (const event of events.slice(from, from + 1_000)) net.last.receive(event);
      await settle();
    }
    expect(await read).toBe(words.join(""));
    expect(net.last.sentOf("caudal:response.resume")).toEqual([]);
  });
});

describe("text()", () => {
  test("yields replayed text in one piece", async () => {
    const handle = connect().responses.resume("resp_1");
    const pieces = all(handle.text());
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three ", "four"]);
    net.last.receive({ ...resumed, last_sequence_number: 3, replay_until: 3, status: "in_progress" });
    for (const event of events) {
      net.last.receive(event);
      await settle();
    }
    expect(await pieces).toEqual(["one two three ", "four"]);
  });

  test('with coalesce: "frame" gives at most one piece a frame', async () => {
    const frames: (() => void)[] = [];
    vi.stubGlobal("requestAnimationFrame", (paint: () => void) => frames.push(paint));
    const handle = connect().responses.create({ input: "hello" });
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of handle.text({ coalesce: "frame" })) pieces.push(piece);
    })();
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three ", "four"]);
    const frame = async (): Promise<void> => {
      for (const paint of frames.splice(0)) paint();
      await settle();
    };
    const receive = async (from: number, to: number): Promise<void> => {
      for (const event of events.slice(from, to)) {
        net.last.receive(event);
        await settle();
      }
    };
    await receive(0, 3);
    expect(pieces).toEqual([]);
    await frame();
    expect(pieces).toEqual(["one two "]);
    await receive(3, 6);
    expect(pieces).toEqual(["one two "]);
    await frame();
    await reading;
    expect(pieces).toEqual(["one two ", "three four"]);
    vi.unstubAllGlobals();
  });

  test('with coalesce: "frame" goes on while the page is hidden and paints nothing', async () => {
    vi.stubGlobal("requestAnimationFrame", () => 0);
    const handle = connect().responses.create({ input: "hello" });
    const pieces = all(handle.text({ coalesce: "frame" }));
    await settle();
    net.last.accept();
    for (const event of eventsOf("resp_1", "lane-0", ["one ", "two"])) net.last.receive(event);
    await vi.advanceTimersByTimeAsync(200);
    expect(await pieces).toEqual(["one two"]);
    vi.unstubAllGlobals();
  });
});
