/** Tests the client against the real server with the scripted engine, over a network that the test breaks. */

import { describe, expect, test } from "vitest";
import {
  AuthenticationError,
  InvalidRequestError,
  NotFoundError,
  outputText,
  type QueuePosition,
  ResponseFailedError,
} from "../src/index.ts";
import { online, sequenceOf, textOf, upTo } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf } = online();

describe("a response", () => {
  test("comes as numbered events, as text and as the stored object, and all agree", async () => {
    const client = clientOf((await server(scripted(50, 200))).url);
    const handle = client.responses.create({ input: "hello", metadata: { of: "mine" } });
    const [numbers, text, final] = await Promise.all([sequenceOf(handle), textOf(handle), handle.final()]);
    expect(numbers).toEqual(upTo(numbers.length));
    expect(handle.lastSequenceNumber).toBe(numbers.length - 1);
    expect(final).toMatchObject({ id: await handle.id, status: "completed", metadata: { of: "mine" } });
    expect(text).toMatch(/^A river does not ask/);
    expect(outputText(final)).toBe(text);
    expect(await client.responses.retrieve(final.id)).toEqual(final);
  });

  test("goes on from an earlier one", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const first = await client.responses.create({ input: "hello" }).final();
    const second = await client.responses.create({ input: "more", previous_response_id: first.id }).final();
    expect(second.previous_response_id).toBe(first.id);
    expect(second.usage?.input_tokens).toBeGreaterThan(first.usage?.input_tokens ?? Number.POSITIVE_INFINITY);
  });

  test("shares the connection with others that run at the same time", async () => {
    const proxy = await proxied(scripted(50, 200));
    const client = clientOf(proxy.url);
    const order: string[] = [];
    const follow = async (name: string): Promise<void> => {
      for await (const event of client.responses.create({ input: name }))
        order.push(`${name} ${event.sequence_number}`);
    };
    await Promise.all([follow("a"), follow("b")]);
    expect(order.indexOf("b 5")).toBeLessThan(order.indexOf("a 40"));
    expect(order.indexOf("a 5")).toBeLessThan(order.indexOf("b 40"));
    expect(proxy.accepted).toBe(1);
  });

  test("reports its place in the queue", async () => {
    const client = clientOf((await server({ ...scripted(100, 100), "engine.max_running": 1 })).url);
    const running = client.responses.create({ input: "first" });
    await running.id;
    const position = new Promise<QueuePosition>((onQueued) => {
      client.responses.create({ input: "second" }, { onQueued });
    });
    expect(await position).toMatchObject({ position: 1 });
  });
});

describe("a broken connection", () => {
  test("is not noticed: the events go on without gap or repeat", async () => {
    const proxy = await proxied(scripted(100, 400));
    // Events of the connection are numbered, too, but these numbers are higher than theirs.
    const cuts = [7, 30, 31, 80];
    proxy.onServerData = (data) => {
      const next = cuts[0];
      if (next === undefined || !data.includes(`"sequence_number":${next},`)) return "pass";
      cuts.shift();
      return "cut";
    };
    const handle = clientOf(proxy.url).responses.create({ input: "hello" });
    const [numbers, text, final] = await Promise.all([sequenceOf(handle), textOf(handle), handle.final()]);
    expect(cuts).toEqual([]);
    expect(proxy.accepted).toBe(5);
    expect(numbers).toEqual(upTo(numbers.length));
    expect(text).toBe(outputText(final));
  });

  test("before response.created runs the request once, however often it is sent", async () => {
    const proxy = await proxied(scripted(20, 0));
    let lost: string | undefined;
    proxy.onServerData = (data) => {
      const created =
        /"response\.created".*?"id":"(resp_\w+)"/.exec(data) ?? /"id":"(resp_\w+)".*?"response\.created"/.exec(data);
      if (lost !== undefined || !created) return "pass";
      lost = created[1];
      return "cut";
    };
    const handle = clientOf(proxy.url).responses.create({ input: "hello" });
    expect(await handle.id).toBe(lost);
    expect(await textOf(handle)).toBe(outputText(await handle.final()));
    expect(proxy.accepted).toBe(2);
  });

  test("that is silent and not closed is noticed by the heartbeat", async () => {
    const proxy = await proxied({ ...scripted(100, 100), "server.heartbeat_ms": 100 });
    let held = false;
    proxy.onServerData = (data) => {
      if (held || !data.includes('"sequence_number":20,')) return "pass";
      held = true;
      return "hold";
    };
    const handle = clientOf(proxy.url).responses.create({ input: "hello" });
    const numbers = await sequenceOf(handle);
    expect(held).toBe(true);
    expect(proxy.accepted).toBe(2);
    expect(numbers).toEqual(upTo(numbers.length));
  });

  test("and a closed page: another client resumes by id, from the start or after an event", async () => {
    const { url } = await server(scripted(60, 200));
    const before = clientOf(url);
    const id = await before.responses.create({ input: "hello" }).id;
    before.close();
    const after = clientOf(url);
    const whole = after.responses.resume(id);
    for await (const { sequence_number } of whole) if (sequence_number === 30) break;
    const rest = after.responses.resume(id, { startingAfter: 30 });
    const [all, tail, final] = await Promise.all([sequenceOf(whole), sequenceOf(rest), whole.final()]);
    expect(all).toEqual(upTo(all.length));
    expect(tail).toEqual(all.slice(31));
    expect(await textOf(whole)).toBe(outputText(final));
  });
});

test("a resume after the last event returns the outcome at once", async () => {
  const client = clientOf((await server(scripted(5, 0))).url);
  const first = client.responses.create({ input: "hello" });
  const final = await first.final();
  const again = client.responses.resume(final.id, { startingAfter: first.lastSequenceNumber });
  expect(await again.final()).toEqual(final);
  expect(await sequenceOf(again)).toEqual([first.lastSequenceNumber]);
});

describe("stopping", () => {
  test("by cancel ends the response at the server", async () => {
    const client = clientOf((await server(scripted(2000, 100))).url);
    const handle = client.responses.create({ input: "hello" });
    for await (const _ of handle.text()) break;
    await handle.cancel();
    const final = await handle.final();
    expect(final).toMatchObject({ status: "incomplete", incomplete_details: { reason: "cancelled" } });
    expect(await textOf(handle)).toBe(outputText(final));
    expect((await client.responses.retrieve(final.id)).status).toBe("incomplete");
  });

  test("by cancel during an outage ends it once the network is back", async () => {
    const proxy = await proxied(scripted(2000, 100));
    const handle = clientOf(proxy.url).responses.create({ input: "hello" });
    for await (const _ of handle.text()) break;
    proxy.cut();
    await handle.cancel();
    expect((await handle.final()).incomplete_details?.reason).toBe("cancelled");
  });

  test("by closing the client does not end the response", async () => {
    const { url } = await server(scripted(50, 200));
    const client = clientOf(url);
    const id = await client.responses.create({ input: "hello" }).id;
    client.close();
    expect((await clientOf(url).responses.resume(id).final()).usage?.output_tokens).toBe(50);
  });

  test("a server that shuts down finishes its running responses", async () => {
    const { url, process } = await server(scripted(100, 200));
    const handle = clientOf(url).responses.create({ input: "hello" });
    for await (const _ of handle.text()) break;
    process.kill("SIGTERM");
    expect((await handle.final()).usage?.output_tokens).toBe(100);
  });
});

describe("errors", () => {
  test("name the field", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const refused = client.responses.create({ input: "hello", temperature: -1 });
    await expect(refused.final()).rejects.toThrow(InvalidRequestError);
    await expect(refused.id).rejects.toMatchObject({ status: 400, param: "temperature" });
    // The connection and its lane go on.
    expect(await textOf(client.responses.create({ input: "hello" }))).not.toBe("");
  });

  test("name what does not exist", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    await expect(client.responses.resume("resp_none").final()).rejects.toThrow(NotFoundError);
    await expect(client.responses.retrieve("resp_none")).rejects.toThrow(NotFoundError);
    const previous = client.responses.create({ input: "hello", previous_response_id: "resp_none" });
    await expect(previous.final()).rejects.toMatchObject({ code: "previous_response_not_found" });
  });

  test("of the engine end the handle, after the text so far", async () => {
    const client = clientOf((await server({ ...scripted(50, 0), "engine.scripted.fail_after": 10 })).url);
    const handle = client.responses.create({ input: "hello" });
    await expect(handle.final()).rejects.toThrow(ResponseFailedError);
    await expect(textOf(handle)).rejects.toThrow(ResponseFailedError);
    const types: string[] = [];
    for await (const event of handle) types.push(event.type);
    expect(types.filter((type) => type === "response.output_text.delta")).not.toEqual([]);
    expect(types.at(-1)).toBe("response.failed");
  });

  test("of size are distinguished from lost connections", async () => {
    const client = clientOf((await server({ ...scripted(5, 0), "server.max_message_bytes": 2000 })).url);
    await expect(client.responses.create({ input: "x".repeat(5000) }).final()).rejects.toMatchObject({ status: 413 });
    expect(await textOf(client.responses.create({ input: "hello" }))).not.toBe("");
  });

  test("of credentials do not cause an endless wait", async () => {
    const keys = '[{ key = "correct-horse", tenant = "t" }]';
    const { url } = await server({ ...scripted(5, 0), "auth.mode": "keys", "auth.keys": keys });
    for (const options of [{}, { token: "wrong-horse" }]) {
      await expect(clientOf(url, options).responses.create({ input: "hello" }).final()).rejects.toThrow(
        AuthenticationError,
      );
    }
    const client = clientOf(url, { token: async () => "correct-horse" });
    expect(await textOf(client.responses.create({ input: "hello" }))).not.toBe("");
    const [model] = await client.models.list();
    expect(await client.models.retrieve("scripted")).toEqual(model);
  });
});
