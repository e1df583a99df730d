/** Tests reasoning, calls, structured output and log-probabilities of the real server with the scripted engine. */

import { describe, expect, test } from "vitest";
import {
  type Logprob,
  OutputFormatError,
  outputText,
  type ResponseHandle,
  runTools,
  TooManyTurnsError,
} from "../src/index.ts";
import { all, online, textOf } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf } = online();

/** Settings with which the engine answers this text once. */
function saying(text: string, tokensPerSecond = 0): Record<string, string | number> {
  return { ...scripted(text.trim().split(/\s+/).length, tokensPerSecond), "engine.scripted.text": text };
}

const CALL = '<tool_call> {"name": "weather", "arguments": {"city": "São Paulo"}} </tool_call> ';
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

test("thoughts are told apart from the text, and both are in the response", async () => {
  const settings = { ...saying("<think> Down it goes. </think> To the sea. "), "engine.scripted.reasoning": "true" };
  const handle = clientOf((await server(settings)).url).responses.create({ input: "hello" });
  const [thoughts, text, final] = await Promise.all([all(handle.reasoning()), textOf(handle), handle.final()]);
  expect(thoughts.join("").trim()).toBe("Down it goes.");
  expect(text.trim()).toBe("To the sea.");
  expect(outputText(final)).toBe(text);
  expect(final.output.map((item) => item.type)).toEqual(["reasoning", "message"]);
  expect(final.usage?.output_tokens_details.reasoning_tokens).toBeGreaterThan(0);
});

describe("calls", () => {
  const tools = [{ type: "function" as const, name: "weather", parameters }];

  test("come with their arguments as they are written", async () => {
    const handle = clientOf((await server(saying(`Let me see. ${CALL}${CALL}`))).url).responses.create({
      input: "hi",
      tools,
    });
    const calls = await all(handle.functionCalls());
    const [deltas, first, second] = [
      await all(calls[0]?.arguments() ?? (async function* () {})()),
      await calls[0]?.final(),
      await calls[1]?.final(),
    ];
    expect(calls).toHaveLength(2);
    expect(deltas.length).toBeGreaterThan(1);
    expect(deltas.join("")).toBe(first?.arguments);
    expect(JSON.parse(first?.arguments ?? "")).toEqual({ city: "São Paulo" });
    expect(second?.call_id).not.toBe(first?.call_id);
    expect(await textOf(handle)).toBe("Let me see. ");
  });

  test("are executed, and the next response answers their results, also over a broken network", async () => {
    const network = await proxied(saying(CALL, 100));
    const cut = new Set<string>();
    network.onServerData = (data) => {
      const id = /"sequence_number":5,"response_id":"(\w+)"/.exec(data)?.[1];
      if (id === undefined || cut.has(id)) return "pass";
      cut.add(id);
      return "cut";
    };
    const client = clientOf(network.url);
    const cities: string[] = [];
    const run = runTools(client, {
      input: "hi",
      tools: { weather: { parameters, execute: ({ city }: { city: string }) => `${cities.push(city)} times` } },
      maxTurns: 3,
    });
    const answers = all(run.answers()).catch(() => []);
    const error = await run.final().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(TooManyTurnsError);
    await answers;
    expect([cut.size, network.accepted]).toEqual([3, 4]);
    expect(cities).toEqual(["São Paulo", "São Paulo"]);
    const last = (error as TooManyTurnsError).response;
    const middle = await client.responses.retrieve(last.previous_response_id ?? "");
    const first = await client.responses.retrieve(middle.previous_response_id ?? "");
    expect(first.previous_response_id).toBe(null);
    const items = await (await fetch(`${network.url}/v1/responses/${last.id}/input_items`)).json();
    const [call] = middle.output;
    expect(items).toMatchObject({
      data: [
        { type: "function_call_output", call_id: call?.type === "function_call" && call.call_id, output: "2 times" },
      ],
    });
  });

  test("continue after a reload without a second request", async () => {
    const { url } = await server(saying(CALL));
    const run = { input: "hi", tools: { weather: { parameters, execute: () => "fine" } }, maxTurns: 2 };
    const before = clientOf(url);
    const ids: string[] = [];
    const first = runTools(before, run);
    await first.final().catch(() => undefined);
    await (async () => {
      for await (const answer of first.answers()) ids.push(await answer.id);
    })().catch(() => undefined);
    before.close();
    const again = runTools(clientOf(url), run, { resume: ids[0] ?? "" });
    const error = await again.final().catch((caught: unknown) => caught);
    expect((error as TooManyTurnsError).response.id).toBe(ids[1]);
  });
});

describe("structured output", () => {
  const text = { format: { type: "json_object" as const } };

  test("is parsed", async () => {
    const client = clientOf((await server(saying('{"city": "Lisbon", "hills": 7}'))).url);
    const handle = client.responses.create({ input: "hello", text });
    expect(await handle.json((value) => (value as { hills: number }).hills)).toBe(7);
  });

  test("that was stopped is distinguished from a complete one", async () => {
    const client = clientOf((await server({ ...scripted(2000, 100), "engine.scripted.text": '{"a": 1} ' })).url);
    const handle = client.responses.create({ input: "hello" });
    const json = expect(handle.json()).rejects.toThrow(OutputFormatError);
    for await (const _ of handle.text()) break;
    await handle.cancel();
    await json;
    await expect(handle.json()).rejects.toMatchObject({ reason: "incomplete" });
  });
});

test("log-probabilities come with the text and with the parts, and a replay has them too", async () => {
  const client = clientOf((await server(scripted(5, 0))).url);
  const handle = client.responses.create({ input: "hello", top_logprobs: 2 });
  const final = await handle.final();
  const logprobsOf = async (of: ResponseHandle): Promise<Logprob[]> =>
    (await all(of)).flatMap((event) => (event.type === "response.output_text.delta" ? event.logprobs : []));
  const streamed = await logprobsOf(handle);
  expect(streamed).toHaveLength(5);
  expect(streamed[0]?.top_logprobs).toHaveLength(2);
  expect(streamed[0]?.logprob).toBeLessThanOrEqual(0);
  const [message] = final.output;
  expect(message?.type === "message" && message.content[0]?.logprobs).toEqual(streamed);
  expect(await logprobsOf(client.responses.resume(final.id))).toEqual(streamed);
});

test("a prompt is warmed without an answer", async () => {
  const final = await clientOf((await server(scripted(5, 0))).url)
    .responses.create({ input: "hi", generate: false })
    .final();
  expect([final.status, final.output]).toEqual(["completed", []]);
});
