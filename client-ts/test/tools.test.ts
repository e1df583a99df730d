/** Tests `runTools`. */

import { describe, expect, test, vi } from "vitest";
import {
  CancelledError,
  type CaudalClient,
  DetachedError,
  InputError,
  ResponseFailedError,
  runTools,
  type ToolRun,
  TooManyTurnsError,
} from "../src/index.ts";
import { answering, type Json, type Output } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, lose } = offline();

const call = (callId: string, name: string, args = "{}"): Output => ({ call: name, callId, arguments: args });

/** Lets the server answer the last request. */
async function say(responseId: string, outputs: Output[], ended?: Json): Promise<void> {
  for (const event of answering(responseId, "lane-0", outputs, ended)) net.last.receive(event);
  await settle();
}

async function begin(make: (client: CaudalClient) => ToolRun): Promise<ToolRun> {
  const run = make(connect());
  await settle();
  net.last.accept();
  return run;
}

async function textOf(run: ToolRun): Promise<string> {
  let all = "";
  for await (const delta of run.text()) all += delta;
  return all;
}

const created = (): Json[] => net.last.sentOf("response.create");
const outputs = (): Json[] => created().at(-1)?.["input"] as Json[];

const weather = {
  description: "The weather of a city",
  parameters: { type: "object", properties: { city: { type: "string" } } },
  execute: ({ city }: { city: string }) => ({ city, sky: "clear" }),
};

test("results go back with previous_response_id until a response has no calls", async () => {
  const run = await begin((client) =>
    runTools(client, { input: "Weather?", instructions: "Be brief.", tools: { weather }, tool_choice: "required" }),
  );
  const text = textOf(run);
  expect(created()).toMatchObject([
    {
      input: "Weather?",
      tool_choice: "required",
      tools: [
        { type: "function", name: "weather", description: "The weather of a city", parameters: { type: "object" } },
      ],
    },
  ]);
  await say("resp_1", [{ text: "Looking. " }, call("call_a", "weather", '{"city":"Lisbon"}')]);
  expect(created()[1]).toMatchObject({
    previous_response_id: "resp_1",
    instructions: "Be brief.",
    client_request_id: "tools_resp_1",
    tools: [{ name: "weather" }],
    input: [{ type: "function_call_output", call_id: "call_a", output: '{"city":"Lisbon","sky":"clear"}' }],
  });
  expect(created()[1]?.["tool_choice"]).toBeUndefined();
  await say("resp_2", [{ text: "Clear." }]);
  expect(await text).toBe("Looking. Clear.");
  expect((await run.final()).id).toBe("resp_2");
  const ids = new Set<string>();
  for await (const event of run) ids.add(event.response_id);
  expect([...ids]).toEqual(["resp_1", "resp_2"]);
});

test("a conversation is continued by its name", async () => {
  await begin((client) => runTools(client, { input: "Weather?", conversation: "conv_1", tools: { weather } }));
  await say("resp_1", [call("call_a", "weather")]);
  expect(created()[1]).toMatchObject({ conversation: "conv_1" });
  expect(created()[1]?.["previous_response_id"]).toBeUndefined();
});

test("calls of one response run together and answer in their order", async () => {
  const running: string[] = [];
  const finish = new Map<string, (result: string) => void>();
  const slow = {
    execute: ({ n }: { n: string }): Promise<string> => {
      running.push(n);
      return new Promise((resolve) => finish.set(n, resolve));
    },
  };
  await begin((client) => runTools(client, { input: "Both", tools: { slow } }));
  await say("resp_1", [call("call_a", "slow", '{"n":"a"}'), call("call_b", "slow", '{"n":"b"}')]);
  expect(running).toEqual(["a", "b"]);
  finish.get("b")?.("of b");
  await settle();
  expect(created()).toHaveLength(1);
  finish.get("a")?.("of a");
  await settle();
  expect(outputs()).toMatchObject([
    { call_id: "call_a", output: "of a" },
    { call_id: "call_b", output: "of b" },
  ]);
});

test("the model receives errors", async () => {
  const tools = {
    broken: {
      execute: (): never => {
        throw new Error("The station is closed.");
      },
    },
    strict: {
      parse: (): { city: string } => {
        throw new Error("city: required");
      },
      execute: () => "never",
    },
    silent: { execute: () => undefined },
  };
  await begin((client) => runTools(client, { input: "Go", tools }));
  await say("resp_1", [
    call("a", "broken"),
    call("b", "strict"),
    call("c", "silent"),
    call("d", "silent", '{"half'),
    call("e", "constructor"),
  ]);
  expect(outputs().map((item) => item["output"])).toEqual([
    '{"error":"The station is closed."}',
    '{"error":"city: required"}',
    "null",
    '{"error":"The arguments are not a JSON object."}',
    '{"error":"There is no function constructor."}',
  ]);
});

describe("the run ends", () => {
  test("with an error when the model never stops calling", async () => {
    const run = await begin((client) => runTools(client, { input: "Go", tools: { weather }, maxTurns: 2 }));
    const failed = expect(run.final()).rejects.toThrow(TooManyTurnsError);
    await say("resp_1", [call("a", "weather")]);
    await say("resp_2", [call("b", "weather")]);
    await failed;
    expect(created()).toHaveLength(2);
  });

  test("with a response that was cut off: half a call is not made", async () => {
    const execute = vi.fn();
    const run = await begin((client) => runTools(client, { input: "Go", tools: { f: { execute } } }));
    await say("resp_1", [call("a", "f", "{")], { status: "incomplete", incomplete_details: { reason: "cancelled" } });
    expect((await run.final()).status).toBe("incomplete");
    expect(execute).not.toHaveBeenCalled();
  });

  test.each([
    ["nothing", null],
    ["what JSON does not hold", { parameters: { most: 1n }, execute: () => "" }],
  ])("with a typed error when a tool is %s", async (_, tool) => {
    const run = runTools(connect(), { input: "hello", tools: { broken: tool as never } });
    await expect(run.final()).rejects.toBeInstanceOf(InputError);
    expect(net.sockets).toEqual([]);
  });

  test("with a failure, for every reader", async () => {
    const run = await begin((client) => runTools(client, { input: "Go", tools: { weather } }));
    const text = expect(textOf(run)).rejects.toThrow(ResponseFailedError);
    await say("resp_1", [{ text: "Half" }], { status: "failed", error: { code: "engine_failed", message: "Broken." } });
    await text;
    await expect(run.final()).rejects.toThrow("Broken.");
  });

  test("when it is cancelled before the first request is out", async () => {
    const run = runTools(connect(), { input: "Go", tools: { weather } });
    const failed = expect(run.final()).rejects.toThrow(CancelledError);
    await run.cancel();
    await failed;
  });

  test("when it is cancelled or left during a call: the function's signal is aborted, and no further request is sent", async () => {
    for (const leave of ["cancel", "detach"] as const) {
      const abort = new AbortController();
      let told: AbortSignal | undefined;
      const never = {
        execute: (_: object, { signal }: { signal: AbortSignal }): Promise<never> => {
          told = signal;
          return new Promise(() => undefined);
        },
      };
      const run = await begin((client) =>
        runTools(client, { input: "Go", tools: { never } }, { signal: abort.signal }),
      );
      const final = run.final().catch((error: unknown) => error);
      await say("resp_1", [call("a", "never")]);
      expect(told?.aborted).toBe(false);
      if (leave === "cancel") void run.cancel();
      else abort.abort();
      const ended = await final;
      if (leave === "cancel") expect(ended).toMatchObject({ id: "resp_1" });
      else expect(ended).toBeInstanceOf(DetachedError);
      expect(told?.aborted).toBe(true);
      expect(created()).toHaveLength(1);
    }
  });
});

describe("a run goes on", () => {
  test("over a lost connection at each step", async () => {
    const run = await begin((client) => runTools(client, { input: "Go", tools: { weather } }));
    const first = answering("resp_1", "lane-0", [call("a", "weather")]);
    for (const event of first.slice(0, 3)) net.last.receive(event);
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent).toMatchObject([{ type: "caudal:response.resume", response_id: "resp_1", starting_after: 2 }]);
    for (const event of first.slice(3)) net.last.receive(event);
    await settle();
    const [second] = created();
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent).toEqual([second]);
    await say("resp_2", [{ text: "Done." }]);
    expect(await textOf(run)).toBe("Done.");
  });

  test("after a reload, from its last response, without sending a request twice", async () => {
    const run = await begin((client) => runTools(client, { tools: { weather } }, { resume: "resp_1" }));
    expect(net.last.sent).toMatchObject([{ type: "caudal:response.resume", response_id: "resp_1" }]);
    await say("resp_1", [call("a", "weather")]);
    expect(created()).toMatchObject([{ previous_response_id: "resp_1", client_request_id: "tools_resp_1" }]);
    await say("resp_2", [{ text: "Done." }]);
    expect(await textOf(run)).toBe("Done.");
  });
});
