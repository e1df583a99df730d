import { describe, expect, test, vi } from "vitest";
import { ConflictError, type ResponseHandle } from "../src/index.ts";
// Loads the lazy part in advance, because the fake clock of these tests stands still during a load.
import "../src/follow.ts";
import { answering, type Json } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, text, lose } = offline();

const turn = (response_id: string): Json => ({ type: "caudal:conversation.turn", conversation: "conv_1", response_id });
const notFound = { code: "response_not_found", message: "Nothing runs.", type: "error", param: "conversation" };

/** Follows `conv_1` and collects the turns. */
async function following(signal?: AbortSignal): Promise<{ turns: ResponseHandle[]; left: Promise<void> }> {
  const turns: ResponseHandle[] = [];
  const client = connect();
  const collect = async (): Promise<void> => {
    for await (const handle of client.conversations.follow("conv_1", signal ? { signal } : {})) turns.push(handle);
  };
  const left = collect();
  await settle();
  net.last.accept();
  await settle();
  return { turns, left };
}

async function say(responseId: string, words: string, lane = "lane-0"): Promise<void> {
  for (const event of answering(responseId, lane, [{ text: words }])) net.last.receive(event);
  await settle();
}

describe("following a conversation", () => {
  test("yields the running turn, then each turn of other clients", async () => {
    const { turns } = await following();
    expect(net.last.sent).toEqual([{ type: "caudal:response.resume", conversation: "conv_1", stream_id: "lane-0" }]);
    await say("resp_1", "first");
    net.last.receive(turn("resp_2"));
    net.last.receive({ ...turn("resp_x"), conversation: "conv_other" });
    net.last.receive(turn("resp_2"));
    await settle();
    expect(net.last.sent.slice(1)).toEqual([
      { type: "caudal:response.resume", response_id: "resp_2", stream_id: "lane-0" },
    ]);
    await say("resp_2", "second");
    net.last.receive(turn("resp_2"));
    await settle();
    expect(net.last.sent).toHaveLength(2);
    expect(await Promise.all(turns.map(text))).toEqual(["first", "second"]);
  });

  test("waits while the conversation has no turn", async () => {
    const { turns } = await following();
    net.last.receive({ type: "error", status: 404, error: notFound, stream_id: "lane-0" });
    net.last.receive(turn("resp_1"));
    await settle();
    await say("resp_1", "first");
    expect(await Promise.all(turns.map(text))).toEqual(["first"]);
  });

  test("omits this client's own turns", async () => {
    const client = connect();
    const turns: ResponseHandle[] = [];
    void (async () => {
      for await (const handle of client.conversations.follow("conv_1")) turns.push(handle);
    })();
    await settle();
    net.last.accept();
    await settle();
    net.last.receive({ type: "error", status: 404, error: notFound, stream_id: "lane-0" });
    client.responses.create({ input: "mine", conversation: "conv_1" });
    net.last.receive(answering("resp_1", "lane-0", [])[0] ?? {});
    net.last.receive(turn("resp_1"));
    await settle();
    expect(net.last.sentOf("caudal:response.resume")).toHaveLength(1);
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    await settle();
    const again = net.last.sentOf("caudal:response.resume").find((message) => message["conversation"]);
    net.last.receive(answering("resp_1", again?.["stream_id"], [])[0] ?? {});
    await settle();
    expect(turns).toEqual([]);
  });

  test("looks up the conversation after an outage, and yields only new turns", async () => {
    const { turns } = await following();
    await say("resp_1", "first");
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    await settle();
    expect(net.last.sent).toEqual([{ type: "caudal:response.resume", conversation: "conv_1", stream_id: "lane-0" }]);
    // The response is known, so the client leaves it.
    net.last.receive(answering("resp_1", "lane-0", [])[0] ?? {});
    await settle();
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    await settle();
    expect(net.last.sent.map((message) => message["response_id"])).toEqual([undefined]);
    await say("resp_2", "missed");
    expect(await Promise.all(turns.map(text))).toEqual(["first", "missed"]);
  });

  test("ends with its signal; yielded turns go on", async () => {
    const abort = new AbortController();
    const { turns, left } = await following(abort.signal);
    const events = answering("resp_1", "lane-0", [{ text: "first" }]);
    net.last.receive(events[0] ?? {});
    await settle();
    abort.abort();
    await left;
    for (const event of events.slice(1)) net.last.receive(event);
    expect(await Promise.all(turns.map(text))).toEqual(["first"]);
    net.last.receive(turn("resp_2"));
    await settle();
    expect(net.last.sent).toHaveLength(1);
    await lose();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.sockets).toHaveLength(1);
  });

  test("ends with the client", async () => {
    const client = connect();
    const left = client.conversations.follow("conv_1").next();
    await settle();
    client.close();
    expect(await left).toEqual({ done: true, value: undefined });
    const late = client.conversations.follow("conv_1").next();
    expect(await late).toEqual({ done: true, value: undefined });
  });

  test("throws when the server refuses the client", async () => {
    const fetch = async (): Promise<Response> => Response.json({ error: { message: "Wrong key." } }, { status: 401 });
    const client = connect({ fetch });
    const failed = expect(client.conversations.follow("conv_1").next()).rejects.toThrow("Wrong key.");
    await settle();
    await lose();
    await failed;
    expect(client.connectionState.status).toBe("failed");
  });

  test("ends with its signal during the look-up", async () => {
    const abort = new AbortController();
    const { turns, left } = await following(abort.signal);
    abort.abort();
    await left;
    expect(turns).toEqual([]);
  });
});

test("a busy conversation is a conflict", async () => {
  const handle = connect().responses.create({ input: "hello", conversation: "conv_1" });
  const failed = expect(handle.final()).rejects.toThrow(ConflictError);
  await settle();
  net.last.accept();
  const error = { code: "conversation_busy", message: "A turn is in progress.", type: "error", param: "conversation" };
  net.last.receive({ type: "error", status: 409, error, stream_id: "lane-0" });
  await failed;
});

test("lists are fetched page by page, as far as they are read", async () => {
  const asked: string[] = [];
  const fetch = async (input: RequestInfo | URL): Promise<Response> => {
    const url = new URL(String(input));
    asked.push(url.pathname + url.search);
    const second = url.searchParams.get("after") === "b";
    const data = (second ? ["c"] : ["a", "b"]).map((id) => ({ id }));
    return Response.json({ object: "list", data, first_id: data[0]?.id, last_id: data.at(-1)?.id, has_more: !second });
  };
  const { conversations } = connect({ fetch });
  const ids: string[] = [];
  for await (const { id } of conversations.items.all("conv_1", { order: "asc", limit: 2 })) ids.push(id);
  expect(ids).toEqual(["a", "b", "c"]);
  expect(asked).toEqual([
    "/v1/conversations/conv_1/items?order=asc&limit=2",
    "/v1/conversations/conv_1/items?order=asc&limit=2&after=b",
  ]);
  for await (const _ of conversations.all()) break;
  expect(asked.slice(2)).toEqual(["/v1/conversations"]);
});
