/** The reconnecting state machine, where the real server cannot be made to misbehave. Time is the test's. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  AuthenticationError,
  CancelledError,
  CaudalClient,
  type CaudalClientOptions,
  ConnectionError,
  DetachedError,
  ProtocolError,
  type ResponseHandle,
} from "../src/index.ts";
import { eventsOf, type FakeNet, fakeNet } from "./support/fake-socket.ts";

let net: FakeNet;
let client: CaudalClient;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  net = fakeNet();
});

afterEach(() => {
  client.close();
  vi.useRealTimers();
  vi.restoreAllMocks();
});

function connect(options: Partial<CaudalClientOptions> = {}): CaudalClient {
  client = new CaudalClient({
    url: "http://caudal.test",
    webSocket: net.webSocket,
    fetch: async () => new Response("{}"),
    reconnect: { initialDelayMs: 100, maxDelayMs: 1000 },
    ...options,
  });
  return client;
}

/** Lets promises settle without moving the clock. */
const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

async function text(handle: ResponseHandle): Promise<string> {
  let all = "";
  for await (const delta of handle.text()) all += delta;
  return all;
}

async function lose(code?: number): Promise<void> {
  net.last.lose(code);
  await settle();
}

describe("a lost connection", () => {
  test("before response.created repeats the same create", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const [first] = net.last.sentOf("response.create");
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.sockets).toHaveLength(2);
    expect(first?.["client_request_id"]).toMatch(/^req_[0-9a-f]{32}$/);
    expect(net.last.sentOf("response.create")).toEqual([first]);
  });

  test("in mid-stream resumes after the last event and drops what comes twice", async () => {
    const handle = connect().responses.create({ input: "hello" });
    const all = text(handle);
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three"]);
    for (const event of events.slice(0, 3)) net.last.receive(event);
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent).toEqual([
      { type: "caudal:response.resume", response_id: "resp_1", starting_after: 2, stream_id: "lane-0" },
    ]);
    for (const event of events.slice(1)) net.last.receive(event);
    expect(await all).toBe("one two three");
  });

  test("that skips an event is given up and resumed", async () => {
    const handle = connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three"]);
    net.last.receive(events[0] ?? {});
    net.last.receive(events[2] ?? {});
    expect(net.last.closedWith).toBe(4400);
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sentOf("caudal:response.resume")[0]?.["starting_after"]).toBe(0);
    for (const event of events.slice(1)) net.last.receive(event);
    expect(await text(handle)).toBe("one two three");
  });
});

describe("the wait between attempts", () => {
  test("doubles up to its bound, is drawn from all of [0, bound], and starts anew once a response moves", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    for (const bound of [100, 200, 400, 800, 1000, 1000]) {
      await lose();
      const before = net.sockets.length;
      await vi.advanceTimersByTimeAsync(bound - 1);
      expect(net.sockets).toHaveLength(before);
      await vi.advanceTimersByTimeAsync(1);
      expect(net.sockets).toHaveLength(before + 1);
    }
    vi.mocked(Math.random).mockReturnValue(0);
    await lose();
    await vi.advanceTimersByTimeAsync(0);
    expect(net.sockets).toHaveLength(8);
    vi.mocked(Math.random).mockReturnValue(1);
    net.last.accept();
    net.last.receive(eventsOf("resp_1", "lane-0", [])[0] ?? {});
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    expect(net.sockets).toHaveLength(9);
  });

  test("goes on growing when the server only ever greets", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    for (const bound of [100, 200, 400]) {
      net.last.accept();
      await lose();
      const before = net.sockets.length;
      await vi.advanceTimersByTimeAsync(bound - 1);
      expect(net.sockets).toHaveLength(before);
      await vi.advanceTimersByTimeAsync(1);
    }
  });

  test("is longer when the server says 1013", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    await lose(1013);
    await vi.advanceTimersByTimeAsync(399);
    expect(net.sockets).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(net.sockets).toHaveLength(2);
  });

  test("ends in ConnectionError after giveUpAfterMs", async () => {
    const handle = connect({
      reconnect: { initialDelayMs: 100, maxDelayMs: 100, giveUpAfterMs: 250 },
    }).responses.create({
      input: "hello",
    });
    const failed = expect(handle.final()).rejects.toThrow(ConnectionError);
    await settle();
    for (let attempt = 0; attempt < 4; attempt++) {
      await lose();
      await vi.advanceTimersByTimeAsync(100);
    }
    await failed;
    expect(client.connectionState.status).toBe("idle");
  });
});

describe("no reconnect", () => {
  test.each([
    [1008, AuthenticationError],
    [4500, ProtocolError],
  ])("after close code %i", async (code, error) => {
    const handle = connect().responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toThrow(error);
    await settle();
    net.last.accept();
    await lose(code);
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
    expect(client.connectionState.status).toBe("failed");
  });

  test("when HTTP says why a handshake failed", async () => {
    const refused = { error: { type: "error", code: "invalid_api_key", message: "Wrong key.", param: null } };
    const handle = connect({ fetch: async () => Response.json(refused, { status: 401 }) }).responses.create({});
    const failed = expect(handle.id).rejects.toThrow("Wrong key.");
    await settle();
    await lose();
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
  });

  test("for the request that was too large; the others resume", async () => {
    connect();
    const running = client.responses.create({ input: "small" });
    await settle();
    net.last.accept();
    net.last.receive(eventsOf("resp_1", "lane-0", [])[0] ?? {});
    const tooLarge = client.responses.create({ input: "large" });
    const failed = expect(tooLarge.final()).rejects.toMatchObject({ status: 413 });
    await lose(1009);
    await failed;
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent.map((message) => message["response_id"])).toEqual([await running.id]);
  });
});

describe("the heartbeat", () => {
  test("asks after silence and takes no answer for a loss", async () => {
    connect().connect();
    await settle();
    net.last.accept({ heartbeat_ms: 1000 });
    await vi.advanceTimersByTimeAsync(1000);
    expect(net.last.sentOf("caudal:ping")).toHaveLength(1);
    net.last.receive({ type: "caudal:pong" });
    await vi.advanceTimersByTimeAsync(1000);
    expect(net.last.sentOf("caudal:ping")).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1000);
    expect(net.last.closedWith).toBe(4408);
    await vi.advanceTimersByTimeAsync(100);
    expect(net.sockets).toHaveLength(2);
  });

  test("answers the server's", async () => {
    connect().connect();
    await settle();
    net.last.accept();
    net.last.receive({ type: "caudal:ping" });
    expect(net.last.sent).toEqual([{ type: "caudal:pong" }]);
  });
});

test("a draining server keeps what it runs; new requests go to a new connection", async () => {
  connect();
  const old = client.responses.create({ input: "old" });
  await settle();
  const draining = net.last;
  draining.accept();
  const events = eventsOf("resp_1", "lane-0", ["still ", "here"]);
  draining.receive(events[0] ?? {});
  draining.receive({ type: "caudal:server.draining", reconnect_after_ms: 500 });
  client.responses.create({ input: "new" });
  await vi.advanceTimersByTimeAsync(499);
  expect(net.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  net.last.accept();
  expect(net.last.sent).toMatchObject([{ type: "response.create", input: "new" }]);
  for (const event of events.slice(1)) draining.receive(event);
  expect(await text(old)).toBe("still here");
  expect(draining.closedWith).toBe(1000);
});

test("a request that a draining server refuses goes to its successor", async () => {
  connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  const [create] = net.last.sentOf("response.create");
  net.last.receive({ type: "caudal:server.draining", reconnect_after_ms: 500 });
  const error = { code: "server_overloaded", message: "Shutting down.", type: "server_error", param: null };
  net.last.receive({ type: "error", status: 503, error, stream_id: "lane-0" });
  await vi.advanceTimersByTimeAsync(500);
  expect(net.sockets).toHaveLength(2);
  net.last.accept();
  expect(net.last.sent).toEqual([create]);
});

test("a resume that is answered 503 is tried again; a create that is fails", async () => {
  connect();
  const overloaded = { code: "server_overloaded", message: "Busy.", type: "error", param: null };
  const refused = { type: "error", status: 503, error: overloaded, retry_after_ms: 700 };
  const resumed = client.responses.resume("resp_1");
  const created = client.responses.create({ input: "hello" });
  const failed = expect(created.final()).rejects.toMatchObject({ code: "server_overloaded", retryAfterMs: 700 });
  await settle();
  net.last.accept();
  net.last.receive({ ...refused, stream_id: "lane-0" });
  net.last.receive({ ...refused, stream_id: "lane-1" });
  await failed;
  await vi.advanceTimersByTimeAsync(700);
  expect(net.last.sentOf("caudal:response.resume")).toHaveLength(2);
  for (const event of eventsOf("resp_1", "lane-0", ["back"])) net.last.receive(event);
  expect(await text(resumed)).toBe("back");
});

test("more requests than lanes wait for one", async () => {
  connect();
  for (let n = 0; n < 18; n++) client.responses.create({ input: `request ${n}` });
  await settle();
  net.last.accept();
  expect(net.last.sentOf("response.create")).toHaveLength(16);
  for (const event of eventsOf("resp_1", "lane-3", [])) net.last.receive(event);
  expect(net.last.sent.at(-1)).toMatchObject({ input: "request 16", stream_id: "lane-3" });
});

describe("stopping", () => {
  test("before the request went out sends nothing", async () => {
    const handle = connect().responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toThrow(CancelledError);
    await handle.cancel();
    await failed;
    await settle();
    net.last.accept();
    expect(net.last.sent).toEqual([]);
  });

  test("before response.created cancels as soon as the id is known", async () => {
    const abort = new AbortController();
    connect().responses.create({ input: "hello" }, { cancelSignal: abort.signal });
    await settle();
    net.last.accept();
    abort.abort();
    expect(net.last.sentOf("caudal:response.cancel")).toEqual([]);
    net.last.receive(eventsOf("resp_1", "lane-0", [])[0] ?? {});
    expect(net.last.sentOf("caudal:response.cancel")).toEqual([
      { type: "caudal:response.cancel", response_id: "resp_1" },
    ]);
  });

  test("without a connection is delivered with the next one", async () => {
    const handle = connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    net.last.receive(eventsOf("resp_1", "lane-0", [])[0] ?? {});
    await lose();
    void handle.cancel();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent.map((message) => message["type"])).toEqual([
      "caudal:response.resume",
      "caudal:response.cancel",
    ]);
  });

  test("by `signal` only stops following", async () => {
    const abort = new AbortController();
    const handle = connect().responses.create({ input: "hello" }, { signal: abort.signal });
    const failed = expect(handle.final()).rejects.toThrow(DetachedError);
    await settle();
    net.last.accept();
    net.last.receive(eventsOf("resp_1", "lane-0", [])[0] ?? {});
    abort.abort();
    await failed;
    expect(net.last.sentOf("caudal:response.cancel")).toEqual([]);
  });
});

test("a short-lived token is fetched for each connection and offered as a subprotocol", async () => {
  let issued = 0;
  connect({ token: async () => `t${++issued}` }).connect();
  await settle();
  net.last.accept();
  await lose();
  await vi.advanceTimersByTimeAsync(100);
  expect(net.sockets.map((socket) => socket.protocols[1])).toEqual([
    "openai-insecure-api-key.t1",
    "openai-insecure-api-key.t2",
  ]);
  expect(net.last.url).toBe("ws://caudal.test/v1/responses");
});

test("a token that cannot be fetched is fetched again", async () => {
  let asked = 0;
  const token = async (): Promise<string> => {
    if (++asked === 1) throw new TypeError("network");
    return "t";
  };
  connect({ token }).responses.create({ input: "hello" });
  await settle();
  expect(net.sockets).toHaveLength(0);
  await vi.advanceTimersByTimeAsync(100);
  net.last.accept();
  expect(net.last.sentOf("response.create")).toHaveLength(1);
});

test("a token that no WebSocket takes ends the handle", async () => {
  class Strict {
    constructor() {
      throw new SyntaxError("bad subprotocol");
    }
  }
  const handle = connect({ webSocket: Strict as never }).responses.create({ input: "hello" });
  await expect(handle.final()).rejects.toThrow(ConnectionError);
});
