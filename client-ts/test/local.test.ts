/** Tests the parts of the local engine that need no browser: requests, events, the download, the router. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { ResponseHandle } from "../src/handle.ts";
import { CaudalClient, type InputItem, type Model, type ResponseCreateParams } from "../src/index.ts";
import type { LocalEngine } from "../src/local/engine.ts";
import { EventWriter } from "../src/local/event-writer.ts";
import type { Folder } from "../src/local/folder.ts";
import { type LocalUnsupportedError, Router } from "../src/local/index.ts";
import { canContinue } from "../src/local/journal.ts";
import { chatRequest } from "../src/local/request.ts";
import { fitted } from "../src/local/truncate.ts";
import { Weights } from "../src/local/weights.ts";
import { Run } from "../src/run.ts";
import { type Server, scripted, startServer } from "./support/server.ts";

const MODEL: Model = {
  ...{ id: "m", object: "model", created: 0, owned_by: "caudal", aliases: [], context_length: 8192 },
  ...{ quantisation: "Q4_1", adapters: [] },
  sampling: { temperature: 0.4, top_p: null, top_k: null, min_p: null, repetition_penalty: null },
  capabilities: { structured_output: true, logprobs: true, tools: "template", reasoning: false },
};
const MANIFEST = { model: MODEL, sha256: "00", bytes: 1 };
const MB = 1 << 20;

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function serve(settings: Record<string, string | number>): Promise<{ server: Server; client: CaudalClient }> {
  const server = await startServer(settings);
  cleanups.push(() => server.stop());
  const client = new CaudalClient({ url: server.url, reconnect: { giveUpAfterMs: 2_000 } });
  cleanups.push(() => client.close());
  return { server, client };
}

test("a request is sampled as the server samples it", () => {
  const request = chatRequest(
    { input: "Hi", instructions: "Be brief.", seed: 2 ** 32 + 7, stop: "." },
    [],
    MODEL,
    "So ",
  );
  expect(request).toMatchObject({
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hi" },
      { role: "assistant", content: "So " },
    ],
    ...{ temperature: 0.4, top_p: 1, top_k: 0, min_p: 0, repeat_penalty: 1, presence_penalty: 0, frequency_penalty: 0 },
    ...{ seed: 7, stop: ["."] },
  });
  expect(request).not.toHaveProperty("max_tokens");
});

test("calls, their outputs and tools are told as chat completions tell them", () => {
  const tools = [{ type: "function" as const, name: "f", parameters: { type: "object" } }];
  const input = [
    { role: "user" as const, content: [{ type: "input_text" as const, text: "What?" }] },
    { type: "function_call" as const, call_id: "c", name: "f", arguments: "{}" },
    { type: "function_call_output" as const, call_id: "c", output: "42" },
  ];
  const request = chatRequest({ input, tools, tool_choice: "required" }, [], MODEL, "");
  expect(request.messages).toEqual([
    { role: "user", content: "What?" },
    { role: "assistant", tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }] },
    { role: "tool", tool_call_id: "c", content: "42" },
  ]);
  expect(request).toMatchObject({ tools: [{ function: { name: "f" } }], tool_choice: "required" });
  expect(canContinue({ input, tools })).toBe(false);
});

test("unsupported fields are refused by name", () => {
  const refused: [ResponseCreateParams, string][] = [
    [{ input: "x", prompt: { id: "p" } }, "prompt"],
    [{ input: "x", previous_response_id: "resp_1" }, "previous_response_id"],
    [{ input: "x", generate: false }, "generate"],
    [{ input: [] }, "input"],
    [
      {
        input: [
          { role: "user", content: "x" },
          { type: "item_reference", id: "msg_1" },
        ],
      },
      "input[1]",
    ],
    [{ input: "x", tools: [{ type: "web_search" }] }, "tools[0]"],
    [{ input: "x", text: { format: { type: "grammar", syntax: "regex", definition: "x" } } }, "text.format.type"],
  ];
  for (const [params, param] of refused) {
    expect(() => chatRequest(params, [], MODEL, "")).toThrow(
      expect.objectContaining({ name: "LocalUnsupportedError", param } satisfies Partial<LocalUnsupportedError>),
    );
  }
  const plain = { ...MODEL, capabilities: { ...MODEL.capabilities, tools: "prompt" as const } };
  expect(() => chatRequest({ input: "x", tools: [{ type: "function", name: "f" }] }, [], plain, "")).toThrow("`tools`");
});

test("the oldest turns are left out of a prompt that does not fit, and the last turn and instructions stay", async () => {
  const items: InputItem[] = [
    { role: "system", content: "Be brief." },
    ...Array.from({ length: 10 }, (_, at): InputItem[] => [
      { role: "user", content: `${at} ${"word ".repeat(100)}` },
      { role: "assistant", content: "yes ".repeat(100) },
    ]).flat(),
    { role: "developer", content: "In English." },
    { role: "user", content: "And now?" },
  ];
  // Counts a word as a token.
  const count = async (items: readonly InputItem[]): Promise<number> =>
    items.flatMap((item) => ("role" in item ? String(item.content).trim().split(" ") : [])).length;
  const fit = await fitted(items, { truncation: "auto", max_output_tokens: 100 }, 1000, count);
  expect(fit.droppedTurns).toBe(6);
  expect(await count(fit.items)).toBeLessThanOrEqual(900);
  expect(fit.items.map((item) => ("role" in item ? item.role : ""))).toEqual([
    "system",
    ...Array.from({ length: 4 }, () => ["user", "assistant"]).flat(),
    "developer",
    "user",
  ]);
  const code = "context_length_exceeded";
  await expect(fitted(items, {}, 1000, count)).rejects.toMatchObject({
    code,
    message: expect.stringContaining("2016"),
  });
  const long: InputItem[] = [...items, { role: "user", content: "word ".repeat(2000) }];
  await expect(fitted(long, { truncation: "auto" }, 1000, count)).rejects.toMatchObject({ code });
  const never = (): Promise<number> => Promise.reject(new Error("A short prompt needs no count."));
  expect(await fitted(items.slice(-1), {}, 1000, never)).toMatchObject({ droppedTurns: 0 });
});

test("thoughts, text and calls become the server's events", async () => {
  const run = new Run("{}");
  const handle = new ResponseHandle(run, { cancel: () => "sent", carrier: () => undefined });
  const said = {
    id: "resp_1",
    params: { input: "x", metadata: { a: "b" } },
    createdAt: 1000,
    ...{ continues: undefined, droppedTurns: 0 },
  };
  const writer = new EventWriter(run, said, MANIFEST);
  writer.reasoning("Hm.");
  writer.text("Yes");
  writer.text(", so:");
  writer.call("call_1", "f", "");
  writer.call(undefined, undefined, '{"a":');
  writer.call(undefined, undefined, "1}");
  writer.end(null);
  const numbers: number[] = [];
  for await (const event of handle) numbers.push(event.sequence_number);
  expect(numbers).toEqual(numbers.map((_, at) => at));
  const response = await handle.final();
  expect(response).toMatchObject({ status: "completed", metadata: { a: "b", where: "browser" } });
  expect(response.output).toMatchObject([
    { type: "reasoning", summary: [{ text: "Hm." }] },
    { type: "message", content: [{ text: "Yes, so:" }] },
    { type: "function_call", call_id: "call_1", name: "f", arguments: '{"a":1}' },
  ]);
});

/** A folder in memory. */
function memory(): Folder & { files: Map<string, Blob> } {
  const files = new Map<string, Blob>();
  return {
    files,
    read: async (name) => files.get(name),
    write: async (name, content) => void files.set(name, new Blob([content])),
    remove: async (name) => void files.delete(name),
    names: async () => [...files.keys()],
  };
}

test("a broken download continues with the missing parts, and another file starts again", async () => {
  const dir = await mkdtemp(join(tmpdir(), "caudal-weights-"));
  cleanups.push(() => rm(dir, { recursive: true }));
  const file = join(dir, "m.gguf");
  const bytes = Buffer.alloc(40 * MB, "caudal");
  await writeFile(file, bytes);
  const { client } = await serve({ ...scripted(1, 0), "engine.scripted.file": file });
  const folder = memory();
  const weights = new Weights(client, folder, undefined);
  const manifest = await weights.asked();
  expect(manifest).toMatchObject({ bytes: 40 * MB, model: { id: "scripted" } });

  const stop = new AbortController();
  const broken = weights.fetch(manifest, (there) => there > 20 * MB && stop.abort(), stop.signal);
  await expect(broken).rejects.toThrow();
  expect(await weights.storedBytes(manifest)).toBe(16 * MB);
  const told: number[] = [];
  const blob = await weights.fetch(manifest, (there) => told.push(there));
  expect(told[0]).toBe(16 * MB);
  expect(told.at(-1)).toBe(40 * MB);
  expect(Buffer.from(await blob.arrayBuffer()).equals(bytes)).toBe(true);
  expect(await new Weights(client, folder, "scripted").stored()).toEqual(manifest);
  expect(await new Weights(client, folder, "another").stored()).toBeUndefined();

  await writeFile(file, "another file");
  await expect(new Weights(client, memory(), undefined).fetch(manifest, () => {})).rejects.toMatchObject({
    status: 404,
  });
  const replaced = await weights.asked();
  expect(replaced.sha256).not.toBe(manifest.sha256);
  await weights.fetch(replaced, () => {});
  expect([...folder.files.keys()]).toEqual(["manifest.json", `${replaced.sha256}-0`]);
});

test("a server that does not share its model is an error", async () => {
  const { client } = await serve(scripted(1, 0));
  const asked = new Weights(client, undefined, undefined).asked();
  await expect(asked).rejects.toMatchObject({ name: "AuthenticationError", code: "insufficient_permissions" });
});

test("a request that the server refuses for lack of room runs in the browser", async () => {
  const { client } = await serve({ ...scripted(1000, 20), "engine.max_running": 1, "admission.queue": 1 });
  const asked: ResponseCreateParams[] = [];
  const local = {
    state: { status: "ready" },
    create: (params: ResponseCreateParams) => {
      asked.push(params);
      return new ResponseHandle(new Run("{}"), { cancel: () => "sent", carrier: () => undefined });
    },
  } as unknown as LocalEngine;
  const router = new Router({ client, local });
  const route = async (seed: number): Promise<string[]> => {
    const { where, reason } = await router.create({ input: "x", seed });
    return [where, reason];
  };
  expect(await route(1)).toEqual(["server", "default"]);
  expect(await route(2)).toEqual(["server", "default"]);
  expect(await route(3)).toEqual(["browser", "refused"]);
  expect(asked).toMatchObject([{ seed: 3 }]);
  router.policy = "server";
  expect(await route(4)).toEqual(["server", "policy"]);
});
