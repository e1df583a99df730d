/** Tests two replicas on one Redis, behind a balancer that the test controls. */

import { expect, test } from "vitest";
import { outputText } from "../src/index.ts";
import { startFleet } from "./support/fleet.ts";
import { all, online, upTo } from "./support/online.ts";
import { startProxy } from "./support/proxy.ts";
import { startRedis } from "./support/redis.ts";
import { scripted } from "./support/server.ts";

const { server, clientOf, later } = online();

test.each(["SIGTERM", "SIGKILL"] as const)(
  "a stream outlives its replica (%s): nothing is lost or repeated",
  async (signal) => {
    const redis = await startRedis();
    later(() => redis.stop());
    const settings = { ...scripted(120, 60), "store.kind": "redis", "store.redis.url": redis.url };
    const [first, second] = [await server(settings), await server(settings)];
    const balancer = await startProxy(first.url);
    later(() => balancer.close());
    const client = clientOf(balancer.url);
    const handle = client.responses.create({ input: "hello" });
    for await (const event of handle) if (event.sequence_number > 20) break;
    balancer.target = second.url;
    first.process.kill(signal);
    const final = await handle.final();
    const events = await all(handle);
    expect(events.map((event) => event.sequence_number)).toEqual(upTo(events.length));
    expect(balancer.accepted).toBeGreaterThan(1);
    const streamed = events.map((event) => (event.type === "response.output_text.delta" ? event.delta : ""));
    expect(streamed.join("")).toBe(outputText(final));
    expect(final.usage?.output_tokens).toBe(120);
    expect(await client.responses.retrieve(final.id)).toEqual(final);
  },
);

test("behind nginx a stream outlives each replica that has it", async () => {
  const fleet = await startFleet(scripted(250, 60));
  later(() => fleet.stop());
  const client = clientOf(fleet.url);
  const handle = client.responses.create({ input: "hello" });
  for await (const event of handle) if (event.sequence_number > 20) break;
  await fleet.killEach();
  const [events, final] = [await all(handle), await handle.final()];
  expect(events.map((event) => event.sequence_number)).toEqual(upTo(events.length));
  expect(final.usage?.output_tokens).toBe(250);
}, 40_000);
