/** Tests requests over HTTP: ids that a URL cannot contain, invalid answers, tokens that expire. */

import { describe, expect, test, vi } from "vitest";
import { AuthenticationError, type CaudalClient, CaudalError, ConnectionError, InputError } from "../src/index.ts";
import { offline } from "./support/offline.ts";
import { online } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { connect } = offline();

/** Every method that takes an id, by its name. */
const CALLS: Record<string, (client: CaudalClient, id: string) => Promise<unknown>> = {
  "responses.retrieve": ({ responses }, id) => responses.retrieve(id),
  "responses.cancel": ({ responses }, id) => responses.cancel(id),
  "responses.delete": ({ responses }, id) => responses.delete(id),
  "responses.regenerate": ({ responses }, id) => responses.regenerate(id),
  "conversations.retrieve": ({ conversations }, id) => conversations.retrieve(id),
  "conversations.update": ({ conversations }, id) => conversations.update(id, { metadata: {} }),
  "conversations.fork": ({ conversations }, id) => conversations.fork(id),
  "conversations.delete": ({ conversations }, id) => conversations.delete(id),
  "conversations.items.list": ({ conversations }, id) => conversations.items.list(id),
  "conversations.items.create": ({ conversations }, id) =>
    conversations.items.create(id, [{ role: "user", content: "hi" }]),
  "conversations.items.retrieve": ({ conversations }, id) => conversations.items.retrieve("conv_1", id),
  "conversations.items.delete": ({ conversations }, id) => conversations.items.delete("conv_1", id),
  "models.retrieve": ({ models }, id) => models.retrieve(id),
  "models.file": ({ models }, id) => models.file(id),
  "prompts.retrieve": ({ prompts }, id) => prompts.retrieve(id),
  "prompts.delete": ({ prompts }, id) => prompts.delete(id),
};

describe.each(Object.entries(CALLS))("%s", (_, call) => {
  test.each(["", ".", "..", "cut \ud83d", undefined, null, 7])(
    "refuses the id %j, and asks for nothing",
    async (id) => {
      const fetch = vi.fn(async () => Response.json({}));
      let answer: Promise<unknown> | undefined;
      expect(() => {
        answer = call(connect({ fetch }), id as string);
      }).not.toThrow();
      await expect(answer).rejects.toBeInstanceOf(InputError);
      expect(fetch).not.toHaveBeenCalled();
    },
  );

  test("sends an id with slashes, spaces and signs unchanged", async () => {
    const asked: URL[] = [];
    const fetch = async (url: RequestInfo | URL): Promise<Response> => {
      asked.push(new URL(String(url)));
      return Response.json({ data: [], has_more: false });
    };
    await call(connect({ fetch }), "a/b c?d#e%2F");
    expect(asked[0]?.pathname.split("/").map(decodeURIComponent)).toContain("a/b c?d#e%2F");
    expect(asked[0]?.search).toBe("");
  });
});

describe("an answer", () => {
  test.each([
    ["a page of a hotel's network", () => new Response("<html>Welcome</html>")],
    ["nothing", () => new Response("")],
    ["no object", () => Response.json("no")],
    ["null", () => Response.json(null)],
    ["cut off", () => new Response('{"data": [{"id": "a"')],
    [
      "lost on its way",
      () => new Response(new ReadableStream({ start: (controller) => controller.error(new TypeError("terminated")) })),
    ],
  ])("that is %s is a typed error", async (_, answer) => {
    const client = connect({ fetch: async () => answer() });
    for (const asked of [
      client.models.list(),
      client.models.retrieve("a"),
      client.conversations.create(),
      client.responses.countTokens({}),
      client.conversations.all().next(),
    ]) {
      await expect(asked).rejects.toBeInstanceOf(CaudalError);
    }
  });

  test("of a list that never ends ends the list", async () => {
    const fetch = vi.fn(async () => Response.json({ data: [{ id: "a" }], last_id: "a", has_more: true }));
    const ids: string[] = [];
    for await (const { id } of connect({ fetch }).conversations.all()) if (ids.push(id) > 5) break;
    expect(ids).toEqual(["a", "a"]);
    expect(fetch).toHaveBeenCalledTimes(2);
  });
});

describe("a token", () => {
  const refused = (): Response =>
    Response.json({ error: { code: "invalid_api_key", message: "No." } }, { status: 401 });
  const inAnHour = (): number => Date.now() / 1000 + 3600;

  test("that the server refuses is fetched again, and the request is resent", async () => {
    const token = vi.fn(async () => ({ value: `secret${token.mock.calls.length}`, expires_at: inAnHour() }));
    const fetch = vi.fn(async (_: unknown, init?: RequestInit) => {
      const headers = new Headers(init?.headers);
      return headers.get("authorization") === "Bearer secret1" ? refused() : Response.json({ data: [] });
    });
    const client = connect({ token, fetch: fetch as typeof globalThis.fetch });
    expect(await client.models.list()).toEqual([]);
    await client.models.list();
    expect([token, fetch].map(({ mock }) => mock.calls.length)).toEqual([2, 3]);
  });

  test.each([
    ["fixed", "secret", 1],
    ["fetched", async () => "secret", 1],
    ["fetched with its end", async () => ({ value: "secret", expires_at: inAnHour() }), 2],
  ])("that is %s and refused is an AuthenticationError", async (_, token, times) => {
    const fetch = vi.fn(async () => refused());
    await expect(connect({ token, fetch }).models.list()).rejects.toBeInstanceOf(AuthenticationError);
    expect(fetch).toHaveBeenCalledTimes(times);
  });

  test("that never comes ends in ConnectionError", async () => {
    const client = connect({ token: () => new Promise<string>(() => undefined) });
    const asked = [client.models.list(), client.responses.create({}).final()];
    const outcomes = Promise.allSettled(asked);
    await vi.advanceTimersByTimeAsync(300_000);
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: "rejected", reason: expect.any(ConnectionError) });
    }
  });
});

describe("on the real server", () => {
  const { server, clientOf } = online();

  test("an unknown id is not found, and an id that means another path is refused", async () => {
    vi.useRealTimers();
    const client = clientOf((await server(scripted(3, 0))).url);
    const { id } = await client.conversations.create();
    await expect(client.conversations.items.delete(id, "..")).rejects.toBeInstanceOf(InputError);
    expect((await client.conversations.retrieve(id)).id).toBe(id);
    for (const [name, call] of Object.entries(CALLS)) {
      if (name !== "models.file") await expect(call(client, "a/../b"), name).rejects.toMatchObject({ status: 404 });
    }
  });
});
