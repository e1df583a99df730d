/** Tests sleep, blocked WebSockets and tokens that expire. */

import { createServer, type Server as HttpServer, type IncomingMessage, request } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, test, vi } from "vitest";
import {
  AuthenticationError,
  CaudalClient,
  type CaudalClientOptions,
  CaudalError,
  type ExpiringToken,
  outputText,
  type TokenSource,
} from "../src/index.ts";
import { eventsOf } from "./support/fake-socket.ts";
import { offline } from "./support/offline.ts";
import { online, sequenceOf, textOf, upTo } from "./support/online.ts";
import { scripted } from "./support/server.ts";

describe("after a sleep", () => {
  const { net, connect, settle, text } = offline();

  /** Stubs the globals of a page that `onWake` uses. */
  function page(): { wake(type: string): void } {
    const scope = new EventTarget();
    vi.stubGlobal("addEventListener", scope.addEventListener.bind(scope));
    vi.stubGlobal("document", { visibilityState: "visible" });
    return { wake: (type) => scope.dispatchEvent(new Event(type)) };
  }

  test.each(["online", "pageshow", "visibilitychange", "resume"])(
    "`%s`: a socket that only looks open is left within 3 s, and the stream goes on",
    async (type) => {
      const { wake } = page();
      const client = connect();
      const handle = client.responses.create({ input: "hello" });
      await settle();
      net.last.accept({ heartbeat_ms: 30_000 });
      const events = eventsOf("resp_1", "lane-0", ["one ", "two"]);
      for (const event of events.slice(0, 2)) net.last.receive(event);
      wake(type);
      expect(net.last.sentOf("caudal:ping")).toHaveLength(1);
      await vi.advanceTimersByTimeAsync(1_000);
      expect(net.last.closedWith).toBe(4408);
      await vi.advanceTimersByTimeAsync(100);
      net.last.accept();
      for (const event of events.slice(2)) net.last.receive(event);
      expect(await text(handle)).toBe("one two");
      client.close();
      vi.unstubAllGlobals();
    },
  );

  test("a socket that answers is kept", async () => {
    const { wake } = page();
    const client = connect();
    client.connect();
    await settle();
    net.last.accept({ heartbeat_ms: 30_000 });
    wake("pageshow");
    net.last.receive({ type: "caudal:pong" });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(net.sockets).toHaveLength(1);
    client.close();
    vi.unstubAllGlobals();
  });

  test("a timer that fires late counts as a sleep", async () => {
    connect().connect();
    await settle();
    net.last.accept({ heartbeat_ms: 30_000 });
    await vi.advanceTimersByTimeAsync(4_000);
    // The machine sleeps for a minute: the clock moves, and the timer does not.
    vi.setSystemTime(Date.now() + 60_000);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(net.last.sentOf("caudal:ping")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(net.last.closedWith).toBe(4408);
  });
});

describe("a token that ends", () => {
  const { net, connect, settle, text } = offline();
  const inSeconds = (seconds: number): number => Date.now() / 1000 + seconds;

  test("is replaced before, on a connection of its own; the stream has no gap", async () => {
    const token = vi.fn(async () => ({ value: `secret${token.mock.calls.length}`, expires_at: inSeconds(600) }));
    const handle = connect({ token }).responses.create({ input: "hello" });
    await settle();
    const old = net.last;
    old.accept();
    const events = eventsOf("resp_1", "lane-0", ["one ", "two ", "three"]);
    for (const event of events.slice(0, 2)) old.receive(event);
    await vi.advanceTimersByTimeAsync(570_000);
    expect(net.sockets).toHaveLength(2);
    expect(net.last.protocols[1]).toBe("openai-insecure-api-key.secret2");
    old.receive(events[2] ?? {});
    net.last.accept();
    expect(net.last.sentOf("caudal:response.resume")).toMatchObject([{ starting_after: 2 }]);
    net.last.receive({ type: "caudal:response.resumed", response_id: "resp_1", stream_id: "lane-0" });
    expect(old.closedWith).toBe(1000);
    for (const event of events.slice(3)) net.last.receive(event);
    expect(await text(handle)).toBe("one two three");
  });

  test.each([
    ["in a month", 30 * 86_400],
    ["in the year 33658", 1e12],
    ["at a time that is no number", Number.NaN],
  ])("%s leaves the connection alone", async (_, seconds) => {
    connect({ token: async () => ({ value: "secret", expires_at: inSeconds(seconds) }) }).connect();
    await settle();
    net.last.accept();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(net.sockets).toHaveLength(1);
  });

  test("is fetched once for many requests over HTTP", async () => {
    const token = vi.fn(async () => ({ value: "secret", expires_at: inSeconds(600) }));
    const client = connect({ token, fetch: async () => Response.json({ data: [] }) });
    for (let n = 0; n < 3; n++) await client.models.list();
    expect(token).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(570_000);
    await client.models.list();
    expect(token).toHaveBeenCalledTimes(2);
  });
});

/** Makes a client on a platform without WebSocket. */
function withoutSocket(options: CaudalClientOptions): CaudalClient {
  vi.stubGlobal("WebSocket", undefined);
  const client = new CaudalClient(options);
  vi.unstubAllGlobals();
  return client;
}

describe("a token that ends in mid-stream", () => {
  const { server, clientOf, later } = online();

  test("is replaced, even if its end is unknown or wrong, over a WebSocket and over SSE", async () => {
    const key = "correct-horse-battery-staple-correct-horse";
    const keys = `[{ key = "${key}", tenant = "t" }]`;
    const { url } = await server({ ...scripted(130, 10), "auth.mode": "keys", "auth.keys": keys });
    const secret = async (): Promise<ExpiringToken> => {
      const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
      const body = JSON.stringify({ expires_after: { seconds: 10 } });
      return (await (
        await fetch(`${url}/v1/client_secrets`, { method: "POST", headers, body })
      ).json()) as ExpiringToken;
    };
    const tokens: TokenSource[] = [
      secret,
      async () => (await secret()).value,
      // The server's clock is wrong.
      async () => ({ value: (await secret()).value, expires_at: Date.now() / 1000 + 3600 }),
    ];
    const reconnect = { initialDelayMs: 5, maxDelayMs: 50 };
    const clients = tokens.flatMap((token) => [clientOf(url, { token }), withoutSocket({ url, token, reconnect })]);
    later(() => clients.forEach((client) => void client.close()));
    const answers = clients.map(async (client) => {
      const handle = client.responses.create({ input: "hello" });
      const { usage } = await handle.final();
      return [usage?.output_tokens, (await sequenceOf(handle)).length - 1 - handle.lastSequenceNumber];
    });
    expect(await Promise.all(answers)).toEqual(clients.map(() => [130, 0]));
  }, 60_000);
});

describe("where WebSockets are blocked", () => {
  const { server, clientOf, later } = online();

  /** Starts a proxy that refuses upgrades as a company's firewall does. */
  async function firewall(target: string): Promise<{ url: string; cut(): void; upgrades: number }> {
    const open = new Set<IncomingMessage>();
    const state = { url: "", upgrades: 0, cut: () => open.forEach((answer) => void answer.destroy()) };
    const proxy: HttpServer = createServer((incoming, outgoing) => {
      const passed = request(`${target}${incoming.url}`, {
        method: incoming.method ?? "GET",
        headers: incoming.headers,
      });
      incoming.pipe(passed);
      passed.on("error", () => outgoing.destroy());
      passed.on("response", (answer) => {
        open.add(answer);
        answer.on("close", () => open.delete(answer)).on("error", () => outgoing.destroy());
        answer.on("close", () => outgoing.destroy());
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      });
    });
    proxy.on("upgrade", (_, socket) => {
      state.upgrades++;
      socket.end("HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n");
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    later(() => {
      proxy.closeAllConnections();
      proxy.close();
    });
    state.url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    return state;
  }

  test("responses come over SSE automatically, and go on after cuts without gap or repeat", async () => {
    const { url } = await server({ ...scripted(120, 200), "generation.conversation_conflict": "serialise" });
    const wall = await firewall(url);
    const client = clientOf(wall.url);
    const handle = client.responses.create({ input: "hello" });
    let cuts = 0;
    for await (const { sequence_number } of handle) {
      if (cuts < 2 && sequence_number === 20 + 30 * cuts) {
        cuts++;
        wall.cut();
      }
    }
    const [numbers, text, final] = await Promise.all([sequenceOf(handle), textOf(handle), handle.final()]);
    expect(cuts).toBe(2);
    expect(wall.upgrades).toBeGreaterThanOrEqual(2);
    expect(numbers).toEqual(upTo(numbers.length));
    expect(text).toBe(outputText(final));
    expect(final.usage?.output_tokens).toBe(120);
    expect(await client.responses.resume(final.id, { startingAfter: handle.lastSequenceNumber }).final()).toEqual(
      final,
    );
  });

  test("or missing: streams, cancels, and reports refusals", async () => {
    const { url } = await server(scripted(2_000, 100));
    const client = withoutSocket({ url, reconnect: { initialDelayMs: 5, maxDelayMs: 50 } });
    later(() => client.close());
    await expect(client.responses.create({ input: "hi", model: "none" }).final()).rejects.toMatchObject({
      status: 404,
    });
    const handle = client.responses.create({ input: "hello", store: false });
    for await (const _ of handle.text()) break;
    expect(client.connectionState).toMatchObject({ status: "connected", transport: "sse" });
    await handle.cancel();
    expect((await handle.final()).status).toBe("incomplete");
    await expect(handle.steer("more")).rejects.toMatchObject({ name: "SteerError" });
  });

  test("a request that cannot be sent, or an invalid answer, ends only its own handle", async () => {
    const { url } = await server(scripted(50, 100));
    const client = withoutSocket({ url, reconnect: { initialDelayMs: 5, maxDelayMs: 50, giveUpAfterMs: 2_000 } });
    later(() => client.close());
    const handle = client.responses.create({ input: "hello" });
    await handle.id;
    for (const id of ["", "..", "cut \ud83d"]) {
      await expect(client.responses.resume(id).final()).rejects.toBeInstanceOf(CaudalError);
    }
    expect((await handle.final()).usage?.output_tokens).toBe(50);
  });

  test("a network that answers instead of the server ends the handle", async () => {
    const hotel = async (): Promise<Response> => new Response("<html>Welcome</html>");
    const reconnect = { initialDelayMs: 5, maxDelayMs: 50, giveUpAfterMs: 1_000 };
    const client = withoutSocket({ url: "http://127.0.0.1:9", fetch: hotel, reconnect });
    later(() => client.close());
    await expect(client.responses.create({ input: "hello" }).final()).rejects.toBeInstanceOf(CaudalError);
  });

  test("a key that is refused ends the handle", async () => {
    const keys = `[{ key = "${"k".repeat(32)}", tenant = "one" }]`;
    const { url } = await server({ ...scripted(5, 0), "auth.mode": "keys", "auth.keys": keys });
    const client = withoutSocket({ url, token: "wrong" });
    later(() => client.close());
    await expect(client.responses.create({ input: "hi" }).final()).rejects.toBeInstanceOf(AuthenticationError);
  });
});
