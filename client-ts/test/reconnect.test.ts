/** Tests the reconnecting state machine in situations that a real server cannot be brought into. With a fake clock. */

import { describe, expect, test, vi } from "vitest";
import { AuthenticationError, CancelledError, ConnectionError, DetachedError, ProtocolError } from "../src/index.ts";
import { eventsOf } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, text, lose } = offline();

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
    expect(first?.["client_request_id"]).toMatch(/^req_\d{4,40}$/);
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

  test("that skips an event is replaced and resumed", async () => {
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

describe("a token that expires", () => {
  test.each([[], [{ type: "error", status: 401, error: { code: "invalid_api_key" } }]])(
    "is fetched anew, and the stream goes on: %j",
    async (...said) => {
      const token = vi.fn().mockResolvedValueOnce("first").mockResolvedValue("second");
      const handle = connect({ token }).responses.create({ input: "hello" });
      await settle();
      net.last.accept();
      const events = eventsOf("resp_1", "lane-0", ["one ", "two"]);
      for (const event of events.slice(0, 3)) net.last.receive(event);
      for (const message of said) net.last.receive(message);
      await lose(1008);
      await vi.advanceTimersByTimeAsync(100);
      net.last.accept();
      expect(token).toHaveBeenCalledTimes(2);
      expect(net.sockets).toHaveLength(2);
      for (const event of events.slice(3)) net.last.receive(event);
      expect(await text(handle)).toBe("one two");
    },
  );
});

describe("the wait between attempts", () => {
  test("doubles up to its bound, is drawn from all of [0, bound], and is reset once a response has a new event", async () => {
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
    const client = connect({ reconnect: { initialDelayMs: 100, maxDelayMs: 100, giveUpAfterMs: 250 } });
    const handle = client.responses.create({ input: "hello" });
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
    const client = connect();
    const handle = client.responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toThrow(error);
    await settle();
    net.last.accept();
    await lose(code);
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
    expect(client.connectionState.status).toBe("failed");
  });

  test("when HTTP gives the reason of a failed handshake", async () => {
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
    const client = connect();
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
  test("sends a ping after silence and treats a missing answer as a loss", async () => {
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

test("more requests than lanes wait for one", async () => {
  const client = connect();
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

  test("without a connection is sent over the next one", async () => {
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

test("a token that a WebSocket does not accept ends the handle", async () => {
  class Strict {
    constructor() {
      throw new SyntaxError("bad subprotocol");
    }
  }
  const handle = connect({ webSocket: Strict as never }).responses.create({ input: "hello" });
  await expect(handle.final()).rejects.toThrow(ConnectionError);
});
