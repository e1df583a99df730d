/** Tests the conversation store of the adapters on the real server. */

import { createElement, StrictMode } from "react";
import { renderToString } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { CaudalProvider, useConnection, useConversation } from "../src/react/index.ts";
import { type AnswerPart, textOf } from "../src/ui/answer.ts";
import { type ConversationSnapshot, ConversationStore } from "../src/ui/conversation-store.ts";
import type { Turn } from "../src/ui/turns.ts";
import { online } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf, later } = online();

class Memory {
  readonly kept = new Map<string, string>();
  getItem(key: string): string | null {
    return this.kept.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.kept.set(key, value);
  }
  removeItem(key: string): void {
    this.kept.delete(key);
  }
}

interface Screen {
  store: ConversationStore;
  /** Waits until `what` returns a truthy value for the snapshot. */
  until(what: (shown: ConversationSnapshot) => unknown): Promise<ConversationSnapshot>;
  /** The statuses that the last turn has had so far. */
  seen: string[];
  close(): void;
}

function screen(url: string, id?: string, storage = new Memory(), client = clientOf(url)): Screen {
  const store = new ConversationStore(client, id, { storage });
  const seen: string[] = [];
  let check = (): void => undefined;
  const unsubscribe = store.subscribe(() => {
    const status = store.getSnapshot().turns.at(-1)?.status;
    // The status "thinking" appears only if the model begins late enough.
    if (status && status !== "thinking" && status !== seen.at(-1)) seen.push(status);
    check();
  });
  later(() => unsubscribe());
  return {
    store,
    seen,
    until: (what) =>
      new Promise((resolve, reject) => {
        const limit = setTimeout(() => {
          reject(new Error(`never so: ${JSON.stringify(store.getSnapshot())}`));
        }, 15_000);
        check = () => {
          const shown = store.getSnapshot();
          if (!what(shown)) return;
          clearTimeout(limit);
          resolve(shown);
        };
        check();
      }),
    close: () => {
      unsubscribe();
      client.close();
    },
  };
}

const last = ({ turns }: ConversationSnapshot): Turn | undefined => turns.at(-1);
const ended = (shown: ConversationSnapshot): boolean => last(shown)?.status === "ended";
const streams = (shown: ConversationSnapshot): boolean => textOf(last(shown)?.parts ?? []).length > 20;
const texts = ({ turns }: ConversationSnapshot): string[] => turns.map(({ parts }) => textOf(parts as AnswerPart[]));

describe("a conversation", () => {
  test("begins with the first message, streams, and is the same for later readers", async () => {
    const { url } = await server(scripted(60, 300));
    const here = screen(url);
    expect(here.store.getSnapshot()).toMatchObject({ status: "ready", turns: [], isRunning: false });
    here.store.send("one");
    const first = await here.until(ended);
    expect(here.seen).toEqual(["queued", "streaming", "ended"]);
    here.store.send("two");
    const both = await here.until((shown) => shown.turns.length === 2 && ended(shown));
    expect(both.turns[0]).toBe(first.turns[0]);
    const there = screen(url, both.id);
    const loaded = await there.until(({ status }) => status === "ready");
    expect(texts(loaded)).toEqual(texts(both));
    expect(loaded.turns.map(({ input, status }) => [input, status])).toEqual([
      ["one", "ended"],
      ["two", "ended"],
    ]);
  });

  test("that the server refuses to follow reports it, and is followed again once the server accepts the client", async () => {
    const keys = '[{ key = "correct-horse", tenant = "t" }]';
    const { url } = await server({ ...scripted(5, 0), "auth.mode": "keys", "auth.keys": keys });
    const other = clientOf(url, { token: "correct-horse" });
    const { id } = await other.conversations.create();
    let asked = 0;
    // The items are read with the first token. The connection, and the probe after its failure, get wrong ones.
    const token = (): string => (asked++ === 0 || asked > 3 ? "correct-horse" : "wrong-horse");
    const here = screen(url, id, undefined, clientOf(url, { token }));
    await here.until(({ status, error }) => status === "ready" && error);
    here.store.send("mine");
    await here.until((shown) => ended(shown) && !shown.error);
    await other.responses.create({ conversation: id, input: "theirs" }).final();
    await here.until((shown) => last(shown)?.input === "theirs" && ended(shown));
  });

  test("shows in a second tab what the first asks, while it streams", async () => {
    const { url } = await server(scripted(100, 100));
    const here = screen(url);
    here.store.send("one");
    const { id } = await here.until(ended);
    const there = screen(url, id);
    await there.until(({ status }) => status === "ready");
    here.store.send("two");
    await there.until((shown) => last(shown)?.input === "two" && last(shown)?.status === "streaming");
    const [mine, theirs] = [await here.until(ended), await there.until(ended)];
    expect(texts(theirs)).toEqual(texts(mine));
    expect(theirs.turns).toHaveLength(2);
  });

  test("opened in mid-stream goes on where it is", async () => {
    const { url } = await server(scripted(150, 100));
    const before = screen(url);
    before.store.send("one");
    const { id } = await before.until(streams);
    before.close();
    const after = screen(url, id);
    await after.until((shown) => last(shown)?.status === "streaming" && streams(shown));
    const shown = await after.until(ended);
    expect(shown.turns).toHaveLength(1);
    expect(last(shown)?.endedBy).toBe("completed");
  });

  test("reloaded while a question waits finds the question again", async () => {
    const { url } = await server({ ...scripted(100, 50), "engine.max_running": 1 });
    const storage = new Memory();
    const busy = clientOf(url).responses.create({ input: "in the way" });
    await busy.id;
    const before = screen(url, undefined, storage);
    before.store.send("one");
    await before.until((shown) => last(shown)?.queue?.position === 1);
    const { id } = before.store.getSnapshot();
    before.close();
    const after = screen(url, id, storage);
    const waiting = await after.until((shown) => last(shown)?.queue?.position === 1);
    expect(waiting.turns.map(({ input, status }) => [input, status])).toEqual([["one", "queued"]]);
    await busy.cancel();
    const shown = await after.until(ended);
    expect(shown.turns).toHaveLength(1);
    expect(storage.kept.size).toBe(0);
  });

  test("stops, answers again, and forks", async () => {
    const { url } = await server(scripted(300, 200));
    const here = screen(url);
    here.store.send("one");
    await here.until(streams);
    await here.store.stop();
    expect(last(await here.until(ended))).toMatchObject({ endedBy: "cancelled" });
    here.store.regenerate({ max_output_tokens: 5 });
    expect(last(here.store.getSnapshot())?.parts).toEqual([]);
    const again = await here.until(ended);
    expect(last(again)?.endedBy).toBe("max_output_tokens");
    here.store.send("two", { max_output_tokens: 5 });
    await here.until((shown) => shown.turns.length === 2 && ended(shown));
    const fork = await here.store.forkBefore(last(here.store.getSnapshot())?.key ?? "");
    const there = screen(url, fork);
    const forked = await there.until(({ status }) => status === "ready");
    expect(texts(forked)).toEqual([texts(again)[0]]);
    expect(here.store.getSnapshot().turns).toHaveLength(2);
  });

  test("is recovering while the network is gone, and goes on", async () => {
    const proxy = await proxied(scripted(150, 100));
    const here = screen(proxy.url);
    here.store.send("one");
    await here.until(streams);
    const { target } = proxy;
    proxy.target = "http://127.0.0.1:9";
    proxy.cut();
    await here.until((shown) => last(shown)?.status === "recovering");
    proxy.target = target;
    await here.until(ended);
    expect(here.seen).toEqual(["queued", "streaming", "recovering", "streaming", "ended"]);
  });

  test("calls functions, and goes on with their results in the same turn", async () => {
    const call = '<tool_call> {"name": "weather", "arguments": {"city": "Faro"}} </tool_call> ';
    const { url } = await server({ ...scripted(7, 0), "engine.scripted.text": call });
    const here = screen(url);
    const tools = [{ type: "function" as const, name: "weather", parameters: { type: "object", properties: {} } }];
    here.store.send("weather?", { tools });
    const called = last(await here.until(ended))?.parts.find((part) => part.type === "call");
    expect(called).toMatchObject({ name: "weather", isComplete: true });
    here.store.sendOutputs([{ callId: called?.callId ?? "", output: "sun" }], { tools });
    const shown = await here.until((now) => ended(now) && (last(now)?.parts.length ?? 0) > 1);
    expect(shown.turns).toHaveLength(1);
    expect(last(shown)?.parts[0]).toMatchObject({ type: "call", output: "sun" });
    const there = await screen(url, shown.id).until(({ status }) => status === "ready");
    expect(there.turns).toHaveLength(1);
    expect(last(there)?.parts).toEqual(last(shown)?.parts);
  });

  test("loads older turns when they are wanted", async () => {
    const { url } = await server(scripted(3, 0));
    const client = clientOf(url);
    const items = Array.from({ length: 20 }, (_, n) => ({
      role: n % 2 === 0 ? ("user" as const) : ("assistant" as const),
      content: `${n}`,
    }));
    const { id } = await client.conversations.create({ items });
    for (let page = 0; page < 2; page++) await client.conversations.items.create(id, items);
    const here = screen(url, id);
    const first = await here.until(({ status }) => status === "ready");
    expect(first).toMatchObject({ hasOlder: true });
    expect(first.turns).toHaveLength(20);
    await here.store.loadOlder();
    expect(here.store.getSnapshot()).toMatchObject({ hasOlder: false });
    expect(here.store.getSnapshot().turns).toHaveLength(30);
  });

  test("that does not exist fails, and so does a refused question", async () => {
    const { url } = await server(scripted(3, 0));
    const gone = await screen(url, "conv_none").until(({ status }) => status === "failed");
    expect(gone.error?.name).toBe("NotFoundError");
    const here = screen(url);
    here.store.send("one", { model: "none" });
    const refused = await here.until((shown) => last(shown)?.status === "failed");
    expect(last(refused)?.error?.name).toBe("NotFoundError");
    here.store.regenerate();
    await here.until(ended);
  });
});

function Page(): string {
  const { turns, status } = useConversation("conv_1");
  return `${useConnection().status} ${status} ${turns.length}`;
}

test("the React hooks render on a server, without a connection", () => {
  const client = clientOf("http://127.0.0.1:9");
  const page = createElement(StrictMode, null, createElement(CaudalProvider, { client }, createElement(Page)));
  expect(renderToString(page)).toContain("idle loading 0");
  expect(client.connectionState.status).toBe("idle");
});
