/** Tests the readers of a handle: reasoning, function calls, JSON. */

import { describe, expect, test } from "vitest";
import { OutputFormatError, ResponseFailedError, type ResponseHandle } from "../src/index.ts";
import { answering, type Json, numbered, type Output } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";
import { all } from "./support/online.ts";

const { net, connect, settle, text } = offline();

/** Returns a handle of a response that receives all of these events at once. */
async function answer(events: Json[]): Promise<ResponseHandle> {
  const handle = connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  for (const event of events) net.last.receive(event);
  return handle;
}

const weather = (callId: string, city: string): Output => ({
  call: "get_weather",
  callId,
  arguments: `{"city":"${city}"}`,
});

test("text, thoughts and calls are told apart, each in its order", async () => {
  const handle = await answer(
    answering("resp_1", "lane-0", [
      { thoughts: ["I should look it up.", "For both."] },
      { text: "One moment." },
      weather("call_a", "Lisbon"),
      weather("call_b", "Porto"),
    ]),
  );
  expect(await text(handle)).toBe("One moment.");
  expect((await all(handle.reasoning())).join("")).toBe("I should look it up.\n\nFor both.");
  const calls = await all(handle.functionCalls());
  expect(calls.map(({ callId, name }) => [callId, name])).toEqual([
    ["call_a", "get_weather"],
    ["call_b", "get_weather"],
  ]);
  const pieces = await Promise.all(calls.map((call) => all(call.arguments())));
  expect(pieces.every((of) => of.length > 1)).toBe(true);
  expect(pieces.map((of) => of.join(""))).toEqual(['{"city":"Lisbon"}', '{"city":"Porto"}']);
  expect(await calls[1]?.final()).toMatchObject({ call_id: "call_b", arguments: '{"city":"Porto"}' });
  expect(await all(handle.events())).toEqual(await all(handle));
});

test("calls that are written at the same time are told apart", async () => {
  const bare = answering("resp_1", "lane-0", [weather("call_a", "Lisbon"), weather("call_b", "Porto")]);
  const [created, ...rest] = bare;
  const ended = rest.pop();
  const mixed = rest.slice(0, rest.length / 2).flatMap((event, n) => [event, rest[n + rest.length / 2] ?? {}]);
  const handle = await answer(numbered("resp_1", "lane-0", [created ?? {}, ...mixed, ended ?? {}]));
  const pieces = (await all(handle.functionCalls())).map(async (call) => (await all(call.arguments())).join(""));
  expect(await Promise.all(pieces)).toEqual(['{"city":"Lisbon"}', '{"city":"Porto"}']);
});

test("a call is there before its arguments are", async () => {
  const events = answering("resp_1", "lane-0", [weather("call_a", "Lisbon")]);
  const added = events.findIndex((event) => event["type"] === "response.output_item.added");
  const handle = await answer(events.slice(0, added + 1));
  const { value: call } = await handle.functionCalls().next();
  expect(call?.name).toBe("get_weather");
  const final = call?.final();
  for (const event of events.slice(added + 1)) net.last.receive(event);
  expect((await final)?.arguments).toBe('{"city":"Lisbon"}');
});

test("a handle that resumed after a call's deltas has the whole call", async () => {
  const events = answering("resp_1", "lane-0", [weather("call_a", "Lisbon")]);
  const done = events.findIndex((event) => event["type"] === "response.output_item.done");
  const handle = connect().responses.resume("resp_1", { startingAfter: done - 1 });
  await settle();
  net.last.accept();
  for (const event of events.slice(done)) net.last.receive(event);
  const [call] = await all(handle.functionCalls());
  expect(call && (await all(call.arguments()))).toEqual(['{"city":"Lisbon"}']);
});

test("a failure ends every reader with it, but not the events", async () => {
  const failed = { status: "failed", error: { code: "engine_failed", message: "Broken." } };
  const handle = await answer(answering("resp_1", "lane-0", [{ text: "Half" }], failed));
  for (const read of [handle.text(), handle.reasoning(), handle.functionCalls()]) {
    await expect(all<unknown>(read)).rejects.toThrow(ResponseFailedError);
  }
  await expect(handle.json()).rejects.toThrow("Broken.");
  expect((await all(handle)).at(-1)?.type).toBe("response.failed");
});

test("events of a newer server are passed on", async () => {
  const events = numbered("resp_1", "lane-0", [
    { type: "response.created", response: { id: "resp_1", output: [] } },
    { type: "response.hologram.delta", delta: "~" },
    { type: "response.output_item.added", output_index: 0, item: { type: "hologram", id: "h" } },
    { type: "response.output_text.delta", delta: "Hello" },
    { type: "response.completed", response: { id: "resp_1", status: "completed", output: [{ type: "hologram" }] } },
  ]);
  const handle = connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  net.last.receive({ type: "caudal:weather.changed", stream_id: "lane-0", sequence_number: 9 });
  net.last.receive({ type: "weather.changed" });
  for (const event of events) net.last.receive(event);
  expect(await text(handle)).toBe("Hello");
  expect((await all(handle)).map((event) => event.type)).toEqual(events.map((event) => event["type"]));
  expect(await all(handle.functionCalls())).toEqual([]);
});

describe("json()", () => {
  const says = (said: string, ended?: Json): Promise<ResponseHandle> =>
    answer(answering("resp_1", "lane-0", said === "" ? [] : [{ text: said }], ended));

  test("is the parsed output, checked if there is a check", async () => {
    const handle = await says('{"city":"Lisbon"}');
    expect(await handle.json<{ city: string }>()).toEqual({ city: "Lisbon" });
    expect(await handle.json((value) => (value as { city: string }).city)).toBe("Lisbon");
  });

  test.each([
    ["an answer that is no JSON", "Lisbon, of course.", undefined, "invalid", /not JSON: Lisbon, of course\./],
    ["no answer", "", undefined, "invalid", /no text/],
    [
      "an answer that was cut off, though it parses",
      "12",
      { status: "incomplete", incomplete_details: { reason: "max_output_tokens" } },
      "incomplete",
      /incomplete \(max_output_tokens\)/,
    ],
  ])("rejects %s", async (_, said, ended, reason, message) => {
    const error = await (await says(said, ended)).json().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(OutputFormatError);
    expect(error).toMatchObject({ reason, message: expect.stringMatching(message), response: { id: "resp_1" } });
  });

  test("rejects what the check refuses, with its reason", async () => {
    const refuse = (): never => {
      throw new TypeError("no city");
    };
    const error = await (await says("{}")).json(refuse).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ name: "OutputFormatError", reason: "invalid", cause: new TypeError("no city") });
  });
});
