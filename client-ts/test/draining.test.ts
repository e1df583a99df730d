/** Tests a draining server: the next server takes over its responses before the old connection ends. */

import { describe, expect, test, vi } from "vitest";
import type { CaudalClient, ResponseHandle } from "../src/index.ts";
import { eventsOf, type FakeSocket } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, text } = offline();

const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three"]);
const at = (index: number): Record<string, unknown> => events[index] ?? {};
const draining = { type: "caudal:server.draining", reconnect_after_ms: 500 };
const resumed = { type: "caudal:response.resumed", response_id: "resp_1", stream_id: "lane-0" };

/** Returns a response whose first word has arrived from a server that now drains. */
async function drained(client: CaudalClient): Promise<{ handle: ResponseHandle; old: FakeSocket }> {
  const handle = client.responses.create({ input: "hello" });
  await settle();
  const old = net.last;
  old.accept();
  old.receive(at(0));
  old.receive(at(1));
  old.receive(draining);
  return { handle, old };
}

/** Advances the clock until the client reconnects: the time that the server named plus the bound of the jitter. */
async function untilReconnect(): Promise<FakeSocket> {
  const before = net.sockets.length;
  await vi.advanceTimersByTimeAsync(599);
  expect(net.sockets).toHaveLength(before);
  await vi.advanceTimersByTimeAsync(1);
  expect(net.sockets).toHaveLength(before + 1);
  return net.last;
}

describe("a response on a draining server", () => {
  test("goes on there until the next server carries it: nothing is lost or repeated, and the old connection is closed", async () => {
    const client = connect();
    const { handle, old } = await drained(client);
    expect(client.connectionState.status).toBe("moving");
    const next = await untilReconnect();
    next.accept();
    expect(next.sent).toEqual([
      { type: "caudal:response.resume", response_id: "resp_1", starting_after: 1, stream_id: "lane-0" },
    ]);
    old.receive(at(2));
    expect(handle.lastSequenceNumber).toBe(2);
    expect(old.closedWith).toBeUndefined();
    next.receive(resumed);
    expect(old.closedWith).toBe(1000);
    for (const event of events.slice(2)) next.receive(event);
    expect(await text(handle)).toBe("one two three");
    expect(client.connectionState.status).toBe("connected");
  });

  test("may end there while the next one replays it; its lane is free only after that", async () => {
    const client = connect();
    const { handle, old } = await drained(client);
    const next = await untilReconnect();
    next.accept();
    for (const event of events.slice(2)) old.receive(event);
    expect(await text(handle)).toBe("one two three");
    next.receive(resumed);
    next.receive(at(2));
    const second = client.responses.create({ input: "more" });
    expect(next.sentOf("response.create")).toMatchObject([{ stream_id: "lane-1" }]);
    next.receive(at(3));
    next.receive(at(4));
    for (const event of eventsOf("resp_2", "lane-1", ["more"])) next.receive(event);
    expect(await text(second)).toBe("more");
  });

  test("stays when the next server does not have it", async () => {
    const { handle, old } = await drained(connect());
    const next = await untilReconnect();
    next.accept();
    const error = { code: "response_not_found", message: "No such response.", type: "error", param: null };
    next.receive({ type: "error", status: 404, error, stream_id: "lane-0" });
    for (const event of events.slice(2)) old.receive(event);
    expect(await text(handle)).toBe("one two three");
    expect(next.sentOf("caudal:response.resume")).toHaveLength(1);
    expect(old.closedWith).toBe(1000);
  });

  test("is taken over by a later one though an earlier one did not know it", async () => {
    const { handle, old } = await drained(connect());
    const next = await untilReconnect();
    next.accept();
    next.receive({ type: "error", status: 404, error: { code: "response_not_found" }, stream_id: "lane-0" });
    old.lose(1012);
    await settle();
    next.receive(resumed);
    next.receive(at(2));
    next.receive(draining);
    const third = await untilReconnect();
    third.accept();
    expect(third.sentOf("caudal:response.resume")).toMatchObject([{ starting_after: 2 }]);
    for (const event of events.slice(3)) third.receive(event);
    expect(await text(handle)).toBe("one two three");
  });

  test("stays when the next one is leaving too, and the waits grow", async () => {
    const { handle, old } = await drained(connect());
    const next = await untilReconnect();
    next.accept();
    next.receive(draining);
    next.receive(resumed);
    expect(next.closedWith).toBe(1000);
    expect(old.closedWith).toBeUndefined();
    await vi.advanceTimersByTimeAsync(699);
    expect(net.sockets).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1);
    expect(net.sockets).toHaveLength(3);
    for (const event of events.slice(2)) old.receive(event);
    expect(await text(handle)).toBe("one two three");
  });

  test("is resumed when the old connection ends first, without waiting for the time that it named", async () => {
    const client = connect();
    const { handle, old } = await drained(client);
    old.lose(1012);
    await settle();
    expect(client.connectionState.status).toBe("waiting");
    await vi.advanceTimersByTimeAsync(99);
    expect(net.sockets).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    const next = net.last;
    next.accept();
    expect(next.sentOf("caudal:response.resume")).toMatchObject([{ starting_after: 1 }]);
    for (const event of events.slice(2)) next.receive(event);
    expect(await text(handle)).toBe("one two three");
  });

  test("is not given up while the old connection lasts, however long there is no new one", async () => {
    const client = connect({ reconnect: { initialDelayMs: 100, maxDelayMs: 100, giveUpAfterMs: 250 } });
    const { handle, old } = await drained(client);
    const next = await untilReconnect();
    next.accept();
    next.lose();
    await settle();
    for (let attempt = 0; attempt < 5; attempt++) {
      await vi.advanceTimersByTimeAsync(100);
      net.last.lose();
      await settle();
    }
    for (const event of events.slice(2)) old.receive(event);
    expect(await text(handle)).toBe("one two three");
  });
});

test.each([1008, 4500])("an old connection that ends for good, with %d, leaves the new one alone", async (code) => {
  const client = connect();
  const { handle, old } = await drained(client);
  const next = await untilReconnect();
  next.accept();
  old.lose(code);
  await settle();
  expect(client.connectionState.status).toBe("connected");
  next.receive(resumed);
  for (const event of events.slice(2)) next.receive(event);
  expect(await text(handle)).toBe("one two three");
  expect(net.sockets).toHaveLength(2);
});

test("new requests go to the next server", async () => {
  const client = connect();
  const { old } = await drained(client);
  client.responses.create({ input: "new" });
  const next = await untilReconnect();
  next.accept();
  expect(old.sentOf("response.create")).toHaveLength(1);
  expect(next.sentOf("response.create")).toMatchObject([{ input: "new" }]);
});

test("a request that a draining server refuses goes to the next one", async () => {
  connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  const [create] = net.last.sentOf("response.create");
  net.last.receive(draining);
  const error = { code: "server_overloaded", message: "Shutting down.", type: "server_error", param: null };
  net.last.receive({ type: "error", status: 503, error, retry_after_ms: 1000, stream_id: "lane-0" });
  const next = await untilReconnect();
  next.accept();
  expect(next.sent).toEqual([create]);
});

test("a request whose id a draining server sends late is still taken over", async () => {
  connect().responses.create({ input: "hello" });
  await settle();
  const old = net.last;
  old.accept();
  old.receive(draining);
  old.receive(at(0));
  const next = await untilReconnect();
  next.accept();
  expect(next.sentOf("caudal:response.resume")).toMatchObject([{ response_id: "resp_1", starting_after: 0 }]);
});

test("no connection is opened for an idle client", async () => {
  const client = connect();
  const handle = client.responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  for (const event of events) net.last.receive(event);
  await handle.final();
  net.last.receive(draining);
  expect(net.last.closedWith).toBe(1000);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(net.sockets).toHaveLength(1);
  expect(client.connectionState.status).toBe("idle");
});
