/** Tests requests to a server that has no room. */

import { describe, expect, test, vi } from "vitest";
import { CancelledError, RateLimitError, type Retry, ServerError } from "../src/index.ts";
import { eventsOf } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";

const { net, connect, settle, text, lose } = offline();

const busy = (code: string, status = 503): Record<string, unknown> => ({
  type: "error",
  status,
  error: { code, message: "Busy.", type: "server_error", param: null },
  retry_after_ms: 700,
  stream_id: "lane-0",
});

describe("a create that is refused with a retry time", () => {
  test.each(["server_overloaded", "store_unavailable"])("is sent again as it was: %s", async (code) => {
    const retries: Retry[] = [];
    const handle = connect().responses.create({ input: "hello" }, { onRetry: (retry) => retries.push(retry) });
    await settle();
    net.last.accept();
    net.last.receive(busy(code));
    expect(retries).toMatchObject([{ attempt: 1, retryAt: Date.now() + 800, error: { code, retryAfterMs: 700 } }]);
    await vi.advanceTimersByTimeAsync(799);
    expect(net.last.sentOf("response.create")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    const [first, second, ...more] = net.last.sentOf("response.create");
    expect(second).toEqual(first);
    expect(more).toEqual([]);
    for (const event of eventsOf("resp_1", "lane-0", ["at last"])) net.last.receive(event);
    expect(await text(handle)).toBe("at last");
  });

  test("is sent again although the clock moves between two checks", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const due = Date.now() + 800;
    net.last.receive(busy("server_overloaded"));
    await vi.advanceTimersByTimeAsync(799);
    let looks = 0;
    const clock = vi.spyOn(Date, "now").mockImplementation(() => due + (looks++ === 0 ? -0.5 : 0.5));
    await vi.advanceTimersByTimeAsync(1);
    clock.mockRestore();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(net.last.sentOf("response.create")).toHaveLength(2);
  });

  test("is sent maxRetries times more, and then fails", async () => {
    const handle = connect({ maxRetries: 2 }).responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toThrow(RateLimitError);
    await settle();
    net.last.accept();
    for (const jitter of [100, 200]) {
      net.last.receive(busy("rate_limit_exceeded", 429));
      await vi.advanceTimersByTimeAsync(700 + jitter);
    }
    expect(net.last.sentOf("response.create")).toHaveLength(3);
    net.last.receive(busy("rate_limit_exceeded", 429));
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.last.sentOf("response.create")).toHaveLength(3);
  });

  test("fails at once when that time is beyond giveUpAfterMs", async () => {
    const failed = expect(connect().responses.create({ input: "hello" }).final()).rejects.toMatchObject({
      name: "RateLimitError",
      retryAfterMs: 120_000,
    });
    await settle();
    net.last.accept();
    net.last.receive({ ...busy("rate_limit_exceeded", 429), retry_after_ms: 120_000 });
    await failed;
    await vi.advanceTimersByTimeAsync(240_000);
    expect(net.last.sentOf("response.create")).toHaveLength(1);
  });

  test("does not delay other requests", async () => {
    const client = connect();
    client.responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    net.last.receive(busy("server_overloaded"));
    client.responses.create({ input: "other" });
    expect(net.last.sentOf("response.create")).toMatchObject([{ input: "hello" }, { input: "other" }]);
  });

  test("is sent with the next connection when its own is lost", async () => {
    connect().responses.create({ input: "hello" });
    await settle();
    net.last.accept();
    const [create] = net.last.sent;
    net.last.receive(busy("server_overloaded"));
    await lose();
    await vi.advanceTimersByTimeAsync(100);
    net.last.accept();
    expect(net.last.sent).toEqual([]);
    await vi.advanceTimersByTimeAsync(700);
    expect(net.last.sent).toEqual([create]);
  });

  test("is cancelled without a message to the server", async () => {
    const handle = connect().responses.create({ input: "hello" });
    const failed = expect(handle.final()).rejects.toThrow(CancelledError);
    await settle();
    net.last.accept();
    net.last.receive(busy("server_overloaded"));
    await handle.cancel();
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(net.last.sent).toHaveLength(1);
  });
});

test("a create that is refused without a time fails", async () => {
  const handle = connect().responses.create({ input: "hello" });
  const failed = expect(handle.final()).rejects.toThrow(ServerError);
  await settle();
  net.last.accept();
  net.last.receive({ ...busy("server_overloaded"), retry_after_ms: undefined });
  await failed;
});

test("a resume is retried until giveUpAfterMs", async () => {
  const handle = connect({ maxRetries: 0 }).responses.resume("resp_1");
  await settle();
  net.last.accept();
  for (const jitter of [100, 200, 400, 800, 1000, 1000]) {
    net.last.receive(busy("store_unavailable"));
    await vi.advanceTimersByTimeAsync(700 + jitter);
  }
  expect(net.last.sentOf("caudal:response.resume")).toHaveLength(7);
  for (const event of eventsOf("resp_1", "lane-0", ["back"])) net.last.receive(event);
  expect(await text(handle)).toBe("back");
});

test("a connection that ends with a retry time is not reopened before", async () => {
  connect().responses.create({ input: "hello" });
  await settle();
  net.last.accept();
  const { stream_id: _, ...aboutConnection } = busy("server_overloaded");
  net.last.receive(aboutConnection);
  await lose(1013);
  await vi.advanceTimersByTimeAsync(1099);
  expect(net.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(net.sockets).toHaveLength(2);
});

test("a failed handshake waits for the retry time that HTTP gives", async () => {
  const fetch = async (): Promise<Response> => new Response("", { status: 503, headers: { "retry-after": "3" } });
  connect({ fetch }).responses.create({ input: "hello" });
  await settle();
  await lose();
  await vi.advanceTimersByTimeAsync(3099);
  expect(net.sockets).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(net.sockets).toHaveLength(2);
});
