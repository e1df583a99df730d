/** Tests regenerate, edit, steer, background, compact and schemas on the real server. */

import { toStandardJsonSchema } from "@valibot/to-json-schema";
import { type as ark } from "arktype";
import * as v from "valibot";
import { describe, expect, test } from "vitest";
import * as z from "zod";
import {
  type CaudalClient,
  type ConversationItem,
  jsonFormat,
  OutputFormatError,
  outputText,
  runTools,
  SteerError,
} from "../src/index.ts";
import { all, online, textOf } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf } = online();

const said = async (client: CaudalClient, conversation: string): Promise<string[]> =>
  (await all(client.conversations.items.all(conversation, { order: "asc" }))).map(textIn);

function textIn(item: ConversationItem): string {
  if (item.type !== "message") return item.type;
  return `${item.role}: ${item.content.map((part) => part.text).join("")}`;
}

describe("an answer", () => {
  test("can be had again, by its id, with other settings", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const before = client.responses.create({ input: "more", instructions: "Be brief.", temperature: 0.5 });
    const first = await before.final();
    const again = await (await client.responses.regenerate(first.id, { max_output_tokens: 3 })).final();
    expect(again.id).not.toBe(first.id);
    expect(again).toMatchObject({ instructions: "Be brief.", temperature: 0.5, max_output_tokens: 3 });
    expect(again.usage?.input_tokens).toBe(first.usage?.input_tokens);
  });

  test("can be had again in a conversation, where it takes the old one's place", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const { id } = await client.conversations.create();
    for (const input of ["one", "two"]) await client.responses.create({ conversation: id, input }).final();
    const before = await said(client, id);
    const again = await (await client.conversations.regenerate(id)).final();
    const after = await said(client, id);
    expect(after.slice(0, 3)).toEqual(before.slice(0, 3));
    expect(after).toHaveLength(4);
    expect(after[3]).toBe(`assistant: ${outputText(again)}`);
  });

  test("to an edited question is in a fork, and the old conversation stays", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const items = Array.from({ length: 30 }, (_, n) => ({
      role: n % 2 === 0 ? ("user" as const) : ("assistant" as const),
      content: `${n}`,
    }));
    const { id } = await client.conversations.create({ items: items.slice(0, 20) });
    await client.conversations.items.create(id, items.slice(20));
    const all30 = await all(client.conversations.items.all(id, { order: "asc" }));
    const { conversation, response } = await client.conversations.edit(id, all30[28]?.id ?? "", { input: "edited" });
    await response.final();
    const fork = await said(client, conversation.id);
    expect(fork.slice(0, 28)).toEqual(all30.slice(0, 28).map(textIn));
    expect(fork[28]).toBe("user: edited");
    expect(fork).toHaveLength(30);
    expect(await said(client, id)).toHaveLength(30);
    await expect(client.conversations.fork(id, { before: "msg_none" })).rejects.toMatchObject({
      code: "item_not_found",
    });
  });

  test("goes on in the background, and is resumed", async () => {
    const client = clientOf((await server(scripted(30, 200))).url);
    const started = await client.responses.background({ input: "hello" });
    expect(["queued", "in_progress"]).toContain(started.status);
    const final = await client.responses.resume(started.id).final();
    expect(final.usage?.output_tokens).toBe(30);
  });

  test("can be summed up", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const first = await client.responses.create({ input: "hello" }).final();
    const { output } = await client.responses.compact({ previous_response_id: first.id, input: "and so on" });
    const next = client.responses.create({ input: [...output, { role: "user", content: "go on" }] });
    expect((await next.final()).status).toBe("completed");
  });
});

describe("steering", () => {
  test("puts input into a running response: a successor takes over in the same lane", async () => {
    const client = clientOf((await server(scripted(200, 100))).url);
    const handle = client.responses.create({ input: "tell" });
    for await (const _ of handle.text()) break;
    const steered = await handle.steer("and now something else");
    if (steered.status !== "committed") throw new Error(steered.status);
    expect((await handle.final()).incomplete_details?.reason).toBe("steered");
    const successor = steered.response;
    expect((await successor.final()).previous_response_id).toBe(await handle.id);
    expect((await textOf(successor)).length).toBeGreaterThan(0);
    await expect(handle.steer("too late")).rejects.toBeInstanceOf(SteerError);
  });

  test("that the server refuses says why", async () => {
    const client = clientOf((await server(scripted(200, 100))).url);
    const { id } = await client.conversations.create();
    const handle = client.responses.create({ conversation: id, input: "tell" });
    for await (const _ of handle.text()) break;
    await expect(handle.steer("no")).rejects.toMatchObject({ name: "SteerError", code: "steering_not_supported" });
    await handle.cancel();
  });

  test("over a connection that is lost says so", async () => {
    const proxy = await proxied(scripted(200, 100));
    const handle = clientOf(proxy.url).responses.create({ input: "tell" });
    for await (const _ of handle.text()) break;
    proxy.onServerData = () => "hold";
    const steered = expect(handle.steer("lost")).rejects.toMatchObject({ code: "connection_lost" });
    await new Promise((resolve) => setTimeout(resolve, 20));
    proxy.onServerData = () => "pass";
    proxy.cut();
    await steered;
    await handle.cancel();
  });
});

describe("schemas of any library", () => {
  const PLACE = '{"name": "Belém", "year": 1519}';
  const Zod = z.object({ name: z.string(), year: z.number() });
  const Valibot = toStandardJsonSchema(v.object({ name: v.string(), year: v.number() }));
  const Arktype = ark({ name: "string", year: "number" });

  test.each([
    ["zod", Zod],
    ["valibot", Valibot],
    ["arktype", Arktype],
  ] as const)("%s describes an output and checks it", async (_, schema) => {
    const client = clientOf((await server({ ...scripted(4, 0), "engine.scripted.text": `${PLACE} ` })).url);
    const format = jsonFormat("place", schema);
    expect(format.schema).toMatchObject({ type: "object", properties: { name: { type: "string" } } });
    const handle = client.responses.create({ input: "where?", text: { format } });
    const place: { name: string; year: number } = await handle.json(schema);
    expect(place).toEqual(JSON.parse(PLACE));
    const other = z.object({ name: z.number() });
    await expect(handle.json(other)).rejects.toBeInstanceOf(OutputFormatError);
  });

  test("describe a function's arguments and check them", async () => {
    const call = '<tool_call> {"name": "weather", "arguments": {"city": "Faro"}} </tool_call> ';
    const client = clientOf((await server({ ...scripted(7, 0), "engine.scripted.text": call })).url);
    const cities: string[] = [];
    const run = runTools(client, {
      input: "hi",
      maxTurns: 2,
      tools: {
        weather: {
          parameters: z.object({ city: z.string() }),
          execute: ({ city }: { city: string }) => {
            cities.push(city);
            return "sun";
          },
        },
      },
    });
    await run.final().catch(() => undefined);
    expect(cities[0]).toBe("Faro");
  });
});
