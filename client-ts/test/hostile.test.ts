/** Tests that every handle ends, with a typed error if necessary, whatever a server or a caller does. */

import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { encode } from "../src/encode.ts";
import { Http } from "../src/http.ts";
import {
  CaudalClient,
  CaudalError,
  ConnectionError,
  DetachedError,
  InputError,
  InvalidRequestError,
  ProtocolError,
  QueueFullError,
  type ResponseHandle,
} from "../src/index.ts";
import { Tokens } from "../src/tokens.ts";
import { answering, eventsOf, type Json, numbered } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, text } = offline();

const lane = fc.constantFrom("lane-0", "lane-1", "lane-2", "lane-9", undefined, 7, null);
const id = fc.constantFrom("resp_1", "resp_2", "resp_3", undefined, 5, null, "");
const types = fc.constantFrom(
  "response.created",
  "response.queued",
  "response.in_progress",
  "response.output_item.added",
  "response.output_item.done",
  "response.output_text.delta",
  "response.reasoning_summary_text.delta",
  "response.function_call_arguments.delta",
  "response.completed",
  "response.incomplete",
  "response.failed",
  "response.steer.accepted",
  "response.steer.failed",
  "response.steer.pending",
  "caudal:response.resumed",
  "caudal:response.queued",
  "caudal:response.recovering",
  "caudal:conversation.turn",
  "caudal:session.created",
  "caudal:server.draining",
  "caudal:ping",
  "caudal:pong",
  "error",
  "response.of_a_newer_server",
);
const frame = fc.record(
  {
    type: fc.oneof({ weight: 20, arbitrary: types }, fc.jsonValue()),
    stream_id: lane,
    response_id: id,
    sequence_number: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 6 }) }, fc.jsonValue()),
    response: fc.oneof(fc.constant({ id: "resp_1", status: "completed", output: [] }), fc.jsonValue()),
    item: fc.oneof(fc.constant({ type: "message" }), fc.constant({ type: "function_call" }), fc.jsonValue()),
    output_index: fc.constantFrom(0, 1, "a"),
    delta: fc.oneof(fc.string(), fc.jsonValue()),
    status: fc.oneof(fc.constantFrom(400, 401, 404, 410, 429, 500, 503, "completed"), fc.jsonValue()),
    error: fc.oneof(fc.record({ code: fc.string(), message: fc.string() }), fc.jsonValue()),
    retry_after_ms: fc.oneof(fc.integer({ min: 0, max: 200_000 }), fc.jsonValue()),
    last_sequence_number: fc.oneof(fc.integer({ min: -1, max: 6 }), fc.jsonValue()),
    reconnect_after_ms: fc.integer({ min: 0, max: 5_000 }),
    heartbeat_ms: fc.constantFrom(0, 1000),
    limits: fc.oneof(fc.constant({ max_in_flight: 2, max_message_bytes: 1000 }), fc.jsonValue()),
  },
  { requiredKeys: ["type"] },
);

type Step = { frame: Json } | { raw: string } | { lose: number } | { wait: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 20, arbitrary: frame.map((given) => ({ frame: given as Json })) },
  { weight: 1, arbitrary: fc.string().map((raw) => ({ raw })) },
  { weight: 1, arbitrary: fc.constantFrom(1000, 1006, 1008, 1009, 1012, 1013, 4000, 4500).map((lose) => ({ lose })) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 3_000 }).map((wait) => ({ wait })) },
);

async function play(steps: readonly Step[]): Promise<void> {
  for (const each of steps) {
    const socket = net.sockets.at(-1);
    if ("wait" in each) await vi.advanceTimersByTimeAsync(each.wait);
    else if ("lose" in each) socket?.lose(each.lose);
    else if ("raw" in each) socket?.receiveText(each.raw);
    else socket?.receive(each.frame);
    if (socket && socket !== net.sockets.at(-1)) net.last.accept();
  }
}

test.each(["ws://h", "http://h/v1", "http://h/v1/", "http://h/"])(
  "the address %s is that of the same server",
  (url) => {
    expect(new Http(url, new Tokens(undefined, 1)).url(["models"]).href).toBe("http://h/v1/models");
  },
);

test("an invalid address is refused by a typed error", () => {
  expect(() => new CaudalClient({ url: "127.0.0.1:9310" })).toThrow(InputError);
});

describe("every handle ends", () => {
  test("whatever a server sends", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
        net.sockets.length = 0;
        const client = connect({ reconnect: { initialDelayMs: 100, maxDelayMs: 1000, giveUpAfterMs: 5_000 } });
        const handles = [
          client.responses.create({ input: "a" }),
          client.responses.create({ input: "b" }),
          client.responses.resume("resp_3", { startingAfter: 2 }),
          client.responses.resume({ conversation: "conv_1" }),
        ];
        const ended = new Set<ResponseHandle>();
        const outcomes = handles.map(async (handle) => {
          const outcome = await Promise.allSettled([handle.final(), text(handle), handle.id]);
          ended.add(handle);
          return outcome;
        });
        await settle();
        net.sockets.at(-1)?.accept();
        await play(steps);
        // The server is gone for good.
        for (let n = 0; n < 400 && ended.size < handles.length; n++) {
          for (const socket of net.sockets) if (socket.closedWith === undefined) socket.lose();
          await vi.advanceTimersByTimeAsync(1_000);
        }
        const isOpen = (handle: ResponseHandle): boolean => !ended.has(handle);
        expect(handles.filter(isOpen).map((handle) => handles.indexOf(handle))).toEqual([]);
        for (const outcome of await Promise.all(outcomes)) {
          for (const each of outcome) {
            if (each.status === "rejected") expect(each.reason).toBeInstanceOf(CaudalError);
          }
        }
        client.close();
      }),
      { numRuns: Number(process.env["FC_RUNS"] ?? 150) },
    );
  }, 60_000);

  test("whatever a caller gives", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.anything({
          withBigInt: true,
          withDate: true,
          withMap: true,
          withNullPrototype: true,
          withObjectString: true,
        }),
        fc.anything({ withBigInt: true }),
        async (input, startingAfter) => {
          net.sockets.length = 0;
          const client = connect();
          const handles = [
            client.responses.create({ input } as never),
            client.responses.create(input as never),
            client.responses.resume(input as never, { startingAfter } as never),
          ];
          const outcomes = handles.map((handle) => Promise.allSettled([handle.final(), handle.id]));
          await settle();
          net.sockets.at(-1)?.accept();
          for (const sent of net.sockets.at(-1)?.sent ?? []) {
            for (const event of eventsOf("resp_1", sent["stream_id"], ["hi"])) {
              net.last.receive({ ...event, response_id: sent["response_id"] ?? "resp_1" });
            }
          }
          await vi.advanceTimersByTimeAsync(130_000);
          await outcomes[0];
          await outcomes[1];
          // A resumed response that the server continues need not have ended.
          client.close();
          for (const outcome of await Promise.all(outcomes)) {
            for (const each of outcome) {
              if (each.status === "rejected") expect(each.reason).toBeInstanceOf(CaudalError);
            }
          }
        },
      ),
      { numRuns: 200 },
    );
  }, 60_000);
});

describe("input", () => {
  const circular: Json = {};
  circular["self"] = circular;

  test.each([
    ["a BigInt", { input: 1n }],
    ["a circular object", { input: circular }],
    [
      "what throws when it is read",
      {
        get input() {
          throw new Error("no");
        },
      },
    ],
  ])("that is %s ends in InputError, and nothing is sent", async (_, params) => {
    let handle: ReturnType<ReturnType<typeof connect>["responses"]["create"]> | undefined;
    const client = connect();
    expect(() => {
      handle = client.responses.create(params as never);
    }).not.toThrow();
    await expect(handle?.final()).rejects.toBeInstanceOf(InputError);
    await expect(handle?.id).rejects.toBeInstanceOf(InputError);
    expect(net.sockets).toEqual([]);
  });

  test("with unpaired surrogates is made well-formed", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.array(fc.integer({ min: 0, max: 0xffff })), (around, units) => {
        const given = around + String.fromCharCode(...units) + around;
        const expected = new TextDecoder().decode(new TextEncoder().encode(given));
        expect(JSON.parse(encode({ given, [given]: 1 }))).toEqual({ given: expected, [expected]: 1 });
        expect(encode({ given })).not.toMatch(/[^\\]\\ud[89a-f]/);
      }),
    );
    expect(JSON.parse(encode({ text: "a literal \\ud83d stays" }))).toEqual({ text: "a literal \\ud83d stays" });
  });

  test.each([-2, 1.5, Number.NaN, Number.POSITIVE_INFINITY])("startingAfter %d is refused", async (startingAfter) => {
    await expect(connect().responses.resume("resp_1", { startingAfter }).final()).rejects.toBeInstanceOf(InputError);
  });

  test("startingAfter beyond the last event is refused once the server has said so", async () => {
    const handle = connect().responses.resume("resp_1", { startingAfter: 5000 });
    const failed = expect(handle.final()).rejects.toBeInstanceOf(InputError);
    await settle();
    net.last.accept();
    const resumed = { type: "caudal:response.resumed", response_id: "resp_1", stream_id: "lane-0" };
    net.last.receive({ ...resumed, starting_after: 5000, last_sequence_number: 12, status: "in_progress" });
    await failed;
  });

  test("above the server's limit is not sent", async () => {
    const handle = connect().responses.create({ input: "é".repeat(600) });
    const failed = expect(handle.final()).rejects.toMatchObject({ status: 413 });
    await settle();
    net.last.accept({ limits: { max_message_bytes: 1000, max_in_flight: 3 } });
    await failed;
    expect(net.last.sent).toEqual([]);
  });
});

test("no more responses are sent at a time than the server takes", async () => {
  const client = connect();
  for (let n = 0; n < 5; n++) client.responses.create({ input: `${n}` });
  await settle();
  net.last.accept({ limits: { max_in_flight: 3 } });
  expect(net.last.sentOf("response.create")).toHaveLength(3);
});

describe("a time that no timer holds", () => {
  const YEARS = 1e12;

  test("to come back to a draining server is waited for", async () => {
    const client = connect();
    client.connect();
    await settle();
    net.last.accept();
    net.last.receive({ type: "caudal:server.draining", reconnect_after_ms: YEARS });
    const states = vi.fn();
    client.onConnectionStateChange(states);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
    expect(states).not.toHaveBeenCalled();
  });

  test("to connect again is waited for", async () => {
    const fetch = async (): Promise<Response> =>
      Response.json({ error: {} }, { status: 503, headers: { "retry-after": `${YEARS}` } });
    connect({ fetch }).connect();
    await settle();
    net.last.lose();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
  });

  test("to send a request again is waited for", async () => {
    const reconnect = { initialDelayMs: 100, maxDelayMs: 100, giveUpAfterMs: Number.POSITIVE_INFINITY };
    connect({ reconnect }).responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const busy = { type: "error", status: 503, error: {}, retry_after_ms: YEARS, stream_id: "lane-0" };
    net.last.receive(busy);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.last.sentOf("response.create")).toHaveLength(1);
  });
});

test("options that are undefined are the defaults", async () => {
  const undefinedOptions = { initialDelayMs: undefined, maxDelayMs: undefined, giveUpAfterMs: undefined };
  const client = connect({ reconnect: undefinedOptions, maxRetries: undefined, maxWaiting: undefined } as never);
  const handle = client.responses.create({ input: "hello", client_request_id: undefined } as never);
  await settle();
  net.last.accept();
  expect(net.last.sent[0]?.["client_request_id"]).toMatch(/^req_/);
  await vi.advanceTimersByTimeAsync(60_000);
  for (const event of eventsOf("resp_1", "lane-0", ["hi"])) net.last.receive(event);
  expect(await text(handle)).toBe("hi");
});

test("a server that lowers the last number of an ended response leaves no handle open", async () => {
  const handle = connect().responses.create({ input: "hello" });
  const ended = handle.final();
  await settle();
  net.last.accept();
  for (const event of eventsOf("resp_1", "lane-0", ["one ", "two "]).slice(0, 3)) net.last.receive(event);
  net.last.lose();
  await vi.advanceTimersByTimeAsync(100);
  net.last.accept();
  const resumed = { type: "caudal:response.resumed", response_id: "resp_1", stream_id: "lane-0", status: "completed" };
  net.last.receive({ ...resumed, starting_after: 2, last_sequence_number: 1 });
  expect(net.last.sent.at(-1)).toMatchObject({ response_id: "resp_1", starting_after: 0 });
  const response = { id: "resp_1", status: "completed", output: [] };
  const last = { type: "response.completed", response_id: "resp_1", stream_id: "lane-0", sequence_number: 1, response };
  net.last.receive(last);
  expect((await ended).status).toBe("completed");
});

test("requests beyond maxWaiting end in QueueFullError", async () => {
  const client = connect({ maxWaiting: 2 });
  const handles = ["a", "b", "c"].map((input) => client.responses.create({ input }));
  await expect(handles[2]?.final()).rejects.toBeInstanceOf(QueueFullError);
  await settle();
  net.last.accept();
  expect(net.last.sentOf("response.create")).toHaveLength(2);
});

describe("an error without a lane", () => {
  const error: Json = { type: "error", status: 400, error: { code: "invalid_json", message: "No JSON." } };

  test("ends the only request that waits for an answer", async () => {
    const handle = connect().responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toBeInstanceOf(InvalidRequestError);
    await settle();
    net.last.accept();
    net.last.receive(error);
    await failed;
  });

  test("among several is assigned by sending one request at a time", async () => {
    const client = connect();
    const [good, bad, other] = ["good", "bad", "other"].map((input) => client.responses.create({ input }));
    const failed = expect(bad?.final()).rejects.toBeInstanceOf(InvalidRequestError);
    await settle();
    net.last.accept();
    net.last.receive(error);
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    for (let n = 0; n < 3; n++) {
      const sent = net.last.sent.at(-1);
      expect(net.last.sent).toHaveLength(n + 1);
      if (sent?.["input"] === "bad") net.last.receive(error);
      else for (const event of eventsOf(`resp_${n}`, sent?.["stream_id"], ["hi"])) net.last.receive(event);
    }
    await failed;
    expect([await text(good as never), await text(other as never)]).toEqual(["hi", "hi"]);
  });

  test("about the connection ends no request", async () => {
    const handle = connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    net.last.receive({ type: "error", status: 400, error: { code: "websocket_connection_limit_reached" } });
    for (const event of eventsOf("resp_1", "lane-0", ["hi"])) net.last.receive(event);
    expect(await text(handle)).toBe("hi");
  });
});

test("a request that is never answered ends after giveUpAfterMs", async () => {
  const handle = connect().responses.create({ input: "hello" });
  const failed = expect(handle.final()).rejects.toMatchObject({ name: "ConnectionError" });
  await settle();
  net.last.accept();
  await vi.advanceTimersByTimeAsync(120_000);
  await failed;
});

test.each([1000, 1006, 1013])("a server that greets and closes with %d each time ends in an error", async (code) => {
  const client = connect();
  const handles = ["first", "second"].map((input) => client.responses.create({ input }));
  const failed = Promise.all(handles.map((each) => expect(each.final()).rejects.toBeInstanceOf(ConnectionError)));
  for (let n = 0, seen = 0; n < 400; n++) {
    await settle();
    for (const socket of net.sockets.slice(seen)) {
      socket.accept();
      socket.lose(code);
    }
    seen = net.sockets.length;
    await vi.advanceTimersByTimeAsync(1_000);
  }
  await failed;
});

test("a malformed event ends the run in ProtocolError", async () => {
  const handle = connect().responses.create({ input: "hello" });
  const failed = expect(handle.final()).rejects.toBeInstanceOf(ProtocolError);
  await settle();
  net.last.accept();
  for (const event of numbered("resp_1", "lane-0", [{ type: "response.completed" }])) net.last.receive(event);
  await failed;
});

test("close code 1000 from the server while something runs is a lost connection", async () => {
  const handle = connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  const events = answering("resp_1", "lane-0", [{ text: "hello there" }]);
  for (const event of events.slice(0, 3)) net.last.receive(event);
  net.last.lose(1000);
  await vi.advanceTimersByTimeAsync(100);
  net.last.accept();
  expect(net.last.sentOf("caudal:response.resume")).toMatchObject([{ response_id: "resp_1", starting_after: 2 }]);
  for (const event of events.slice(3)) net.last.receive(event);
  expect(await text(handle)).toBe("hello there");
});

test("a handle that has ended calls no callback", async () => {
  const news = { onQueued: vi.fn(), onRecovering: vi.fn(), onRetry: vi.fn() };
  const leave = new AbortController();
  const handle = connect().responses.create({ input: "hello" }, { ...news, signal: leave.signal });
  const ended = expect(handle.final()).rejects.toBeInstanceOf(DetachedError);
  await settle();
  net.last.accept();
  leave.abort();
  await ended;
  net.last.receive({ type: "caudal:response.queued", stream_id: "lane-0", position: 1 });
  net.last.receive({ type: "caudal:response.recovering", stream_id: "lane-0" });
  net.last.receive({ type: "error", status: 503, error: {}, retry_after_ms: 10, stream_id: "lane-0" });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(net.last.sentOf("response.create")).toHaveLength(1);
  for (const listener of Object.values(news)) expect(listener).not.toHaveBeenCalled();
});

test("a listener that throws has no other effect", async () => {
  const client = connect();
  const thrown: unknown[] = [];
  vi.stubGlobal("reportError", (error: unknown) => thrown.push(error));
  client.onConnectionStateChange(() => {
    throw new Error("mine");
  });
  const handle = client.responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  for (const event of eventsOf("resp_1", "lane-0", ["hi"])) net.last.receive(event);
  expect(await text(handle)).toBe("hi");
  client.close();
  expect(thrown.length).toBeGreaterThan(0);
  vi.unstubAllGlobals();
});
