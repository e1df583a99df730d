/** Tests conversations and stored prompts on the real server. */

import { describe, expect, test } from "vitest";
import { CaudalError, type ConversationItem, NotFoundError, outputText, type ResponseHandle } from "../src/index.ts";
import { all, online, sequenceOf, textOf, upTo } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf } = online();

const said = (items: readonly ConversationItem[]): string[] =>
  items.flatMap((item) =>
    item.type === "message" ? [`${item.role}: ${item.content.map((c) => c.text).join("")}`] : [],
  );

describe("conversations", () => {
  test("are created, changed, listed and deleted", async () => {
    const { conversations } = clientOf((await server(scripted(5, 0))).url);
    const items = [{ role: "user" as const, content: "hello" }];
    const first = await conversations.create({ items, metadata: { of: "mine" } });
    const second = await conversations.create();
    expect(first).toMatchObject({ object: "conversation", metadata: { of: "mine" } });
    expect(await conversations.retrieve(first.id)).toEqual(first);
    expect((await conversations.update(first.id, { metadata: { of: "yours" } })).metadata).toEqual({ of: "yours" });
    expect((await all(conversations.all({ limit: 1 }))).map(({ id }) => id)).toEqual([second.id, first.id]);
    await conversations.delete(first.id);
    await expect(conversations.retrieve(first.id)).rejects.toThrow(NotFoundError);
    await expect(conversations.items.list(first.id)).rejects.toMatchObject({ code: "conversation_not_found" });
    expect((await conversations.list()).data).toEqual([second]);
  });

  test("have items, which are appended, read and deleted", async () => {
    const { conversations } = clientOf((await server(scripted(5, 0))).url);
    const { id } = await conversations.create();
    const added = await conversations.items.create(id, [
      { role: "user", content: "one" },
      { role: "user", content: "two" },
    ]);
    expect(said(added.data)).toEqual(["user: one", "user: two"]);
    expect(said((await conversations.items.list(id, { limit: 1 })).data)).toEqual(["user: two"]);
    const first = added.data[0]?.id ?? "";
    expect(await conversations.items.retrieve(id, first)).toEqual(added.data[0]);
    await conversations.items.delete(id, first);
    await expect(conversations.items.retrieve(id, first)).rejects.toMatchObject({ code: "item_not_found" });
    expect(said(await all(conversations.items.all(id, { order: "asc" })))).toEqual(["user: two"]);
  });

  test("continue: input and output are appended, and the next turn reads them", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const { id } = await client.conversations.create();
    const first = await client.responses.create({ conversation: id, input: "one" }).final();
    const second = await client.responses.create({ conversation: { id }, input: "two" }).final();
    expect(second.conversation).toEqual({ id });
    expect(second.usage?.input_tokens).toBeGreaterThan(first.usage?.input_tokens ?? Number.POSITIVE_INFINITY);
    const items = await all(client.conversations.items.all(id, { order: "asc" }));
    const [one, two] = [outputText(first), outputText(second)];
    expect(said(items)).toEqual(["user: one", `assistant: ${one}`, "user: two", `assistant: ${two}`]);
  });

  test("are resumed by id: the running turn, or else the latest", async () => {
    const { url } = await server(scripted(60, 200));
    const before = clientOf(url);
    const { id } = await before.conversations.create();
    await expect(before.responses.resume({ conversation: id }).final()).rejects.toThrow(NotFoundError);
    const asked = before.responses.create({ conversation: id, input: "one" });
    const responseId = await asked.id;
    before.close();
    const after = clientOf(url);
    const resumed = after.responses.resume({ conversation: id });
    expect(await resumed.id).toBe(responseId);
    expect(await sequenceOf(resumed)).toEqual(upTo(resumed.lastSequenceNumber + 1));
    const again = after.responses.resume({ conversation: id });
    expect(await textOf(again)).toBe(await textOf(resumed));
  });

  test("are followed: turns of other clients, live, also over a broken network", async () => {
    const network = await proxied(scripted(30, 200));
    const [mine, theirs] = [clientOf(network.url), clientOf(network.url)];
    const { id } = await mine.conversations.create();
    const leave = new AbortController();
    const turns: ResponseHandle[] = [];
    let arrived: () => void = () => undefined;
    const following = (async () => {
      for await (const turn of theirs.conversations.follow(id, { signal: leave.signal })) {
        turns.push(turn);
        arrived();
      }
    })();
    for (const input of ["one", "two", "three"]) {
      const next = new Promise<void>((resolve) => {
        arrived = resolve;
      });
      const handle = mine.responses.create({ conversation: id, input });
      await next;
      if (input === "two") network.cut();
      const turn = turns.at(-1);
      expect(turn && (await textOf(turn))).toBe(await textOf(handle));
      expect(await turn?.id).toBe(await handle.id);
    }
    leave.abort();
    await following;
    expect(turns).toHaveLength(3);
  });
});

test("a conversation that does not exist cannot be followed", async () => {
  const client = clientOf((await server(scripted(5, 0))).url);
  for (const id of ["conv_none", "", "cut \ud83d"]) {
    await expect(client.conversations.follow(id).next()).rejects.toBeInstanceOf(CaudalError);
  }
});

test("prompts are stored in versions, used, listed and deleted", async () => {
  const client = clientOf((await server(scripted(5, 0))).url);
  const first = await client.prompts.create({ name: "role", instructions: "Answer as {{who}}." });
  expect(first).toMatchObject({ object: "prompt", version: "1", name: "role", variables: ["who"] });
  const second = await client.prompts.create({ id: first.id, instructions: "Answer at length as {{who}}, please." });
  expect(second).toMatchObject({ id: first.id, version: "2" });
  expect(await client.prompts.retrieve(first.id)).toEqual(second);
  expect(await client.prompts.retrieve(first.id, { version: "1" })).toEqual(first);
  const ask = (version?: string): Promise<number> => {
    const prompt = { id: first.id, variables: { who: "a pirate" }, ...(version === undefined ? {} : { version }) };
    return client.responses
      .create({ prompt, input: "hi" })
      .final()
      .then(({ usage }) => usage?.input_tokens ?? 0);
  };
  expect(await ask()).toBeGreaterThan(await ask("1"));
  expect((await all(client.prompts.all())).map(({ id }) => id)).toEqual([first.id]);
  await client.prompts.delete(first.id);
  await expect(client.prompts.retrieve(first.id)).rejects.toMatchObject({ code: "prompt_not_found" });
});
