/** Tests AI SDK's own `Chat`, versions 7 and 6, on the transport against the real server. */

import { Chat as Chat7 } from "@ai-sdk/react";
import {
  type ChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
  type UIMessage,
} from "ai";
import type { ChatTransport as ChatTransport6, UIMessage as UIMessage6 } from "ai6";
import { describe, expect, test } from "vitest";
import { CaudalChatTransport, type CaudalChatTransportOptions } from "../src/ai-sdk/index.ts";
import type { CaudalClient } from "../src/index.ts";
import { Chat6 } from "./support/chat6.ts";
import { online } from "./support/online.ts";
import { scripted } from "./support/server.ts";

const { server, proxied, clientOf, later } = online();

class Memory {
  readonly #kept = new Map<string, string>();
  getItem(key: string): string | null {
    return this.#kept.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.#kept.set(key, value);
  }
}

function transportOf(client: CaudalClient, options: Partial<CaudalChatTransportOptions> = {}): CaudalChatTransport {
  return new CaudalChatTransport({ client, storage: new Memory(), ...options });
}

const textOf = (message: UIMessage | undefined): string =>
  (message?.parts ?? []).map((part) => (part.type === "text" ? part.text : "")).join("");

async function until(what: () => unknown): Promise<void> {
  for (let waited = 0; !what(); waited += 10) {
    if (waited > 15_000) throw new Error(`never so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Returns a conversation as lines, one for each item. */
async function said(client: CaudalClient, conversation: string): Promise<string[]> {
  const items: string[] = [];
  for await (const item of client.conversations.items.all(conversation, { order: "asc" })) {
    items.push(item.type === "message" ? `${item.role}: ${item.content.map((part) => part.text).join("")}` : item.type);
  }
  return items;
}

test("fits AI SDK 6 and 7", () => {
  const transport = transportOf(clientOf("http://127.0.0.1:9"));
  const seven: ChatTransport<UIMessage> = transport;
  const six: ChatTransport6<UIMessage6> = transport as CaudalChatTransport<UIMessage & UIMessage6>;
  expect([seven, six]).toEqual([transport, transport]);
});

/** The `Chat` classes of both versions, with the type of version 7. */
const CHATS: [version: string, Chat: typeof Chat7][] = [
  ["AI SDK 7", Chat7],
  ["AI SDK 6", Chat6 as unknown as typeof Chat7],
];

describe.each(CHATS)("useChat of %s", (_, Chat) => {
  test("sends, streams, continues the conversation, and shows it to later readers", async () => {
    const client = clientOf((await server(scripted(30, 300))).url);
    const { id } = await client.conversations.create();
    const transport = transportOf(client);
    const chat = new Chat({ id, transport });
    const sent = chat.sendMessage({ text: "one" });
    await until(() => textOf(chat.lastMessage).length > 20 && chat.status === "streaming");
    await sent;
    await chat.sendMessage({ text: "two" });
    expect(chat.messages.map(({ role }) => role)).toEqual(["user", "assistant", "user", "assistant"]);
    expect(chat.lastMessage?.id).toMatch(/^resp_/);
    expect(chat.lastMessage?.metadata).toMatchObject({ status: "completed" });
    const opened = await transportOf(client).loadMessages(id);
    expect(opened.map(textOf)).toEqual(chat.messages.map(textOf));
  });

  test("resumes in mid-stream after a reload, with the same message; idle chats have nothing to resume", async () => {
    const { url } = await server(scripted(150, 100));
    const storage = new Memory();
    const before = new Chat({ id: "mine", transport: transportOf(clientOf(url), { storage }) });
    void before.sendMessage({ text: "one" });
    await until(() => textOf(before.lastMessage).length > 20);
    const messageId = before.lastMessage?.id;
    await before.stop();

    const transport = transportOf(clientOf(url), { storage });
    const messages = await transport.loadMessages("mine");
    expect(messages.map(textOf)).toEqual(["one"]);
    const after = new Chat({ id: "mine", transport, messages });
    await after.resumeStream();
    expect(after.lastMessage?.id).toBe(messageId);
    expect(after.lastMessage?.metadata).toMatchObject({ status: "completed" });
    expect(after.messages).toHaveLength(2);
    expect(await transport.reconnectToStream({ chatId: "mine" })).toBeNull();
    expect(await transport.reconnectToStream({ chatId: "another" })).toBeNull();
  });

  test("is not disturbed by a lost connection", async () => {
    const proxy = await proxied(scripted(100, 200));
    const chat = new Chat({ id: "mine", transport: transportOf(clientOf(proxy.url)) });
    const sent = chat.sendMessage({ text: "one" });
    for (const length of [20, 100, 200]) {
      await until(() => textOf(chat.lastMessage).length > length);
      proxy.cut();
    }
    await sent;
    expect(chat.status).toBe("ready");
    expect(proxy.accepted).toBeGreaterThanOrEqual(4);
    expect(textOf(chat.lastMessage)).toMatch(/^A river does not ask/);
  });

  test("detaches when it is stopped; the transport's stop cancels; with onAbort both do", async () => {
    const { url } = await server(scripted(1_000, 100));
    const client = clientOf(url);
    const transport = transportOf(client);
    const chat = new Chat({ id: "mine", transport });
    const running = async (): Promise<string> => {
      await until(() => textOf(chat.lastMessage).length > 20);
      return chat.lastMessage?.id ?? "";
    };
    void chat.sendMessage({ text: "one" });
    const first = await running();
    await chat.stop();
    expect((await client.responses.retrieve(first)).status).toBe("in_progress");
    await transport.stop("mine");
    expect((await client.responses.retrieve(first)).status).toBe("incomplete");

    const cancelling = new Chat({ id: "other", transport: transportOf(client, { onAbort: "cancel" }) });
    void cancelling.sendMessage({ text: "two" });
    await until(() => textOf(cancelling.lastMessage).length > 20);
    const second = cancelling.lastMessage?.id ?? "";
    await cancelling.stop();
    await client.responses.resume(second).final();
    expect((await client.responses.retrieve(second)).status).toBe("incomplete");
  });

  test("regenerates and edits: the conversation follows", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const storage = new Memory();
    const transport = transportOf(client, { storage });
    const chat = new Chat({ id: "mine", transport });
    const conversation = (): string => JSON.parse(storage.getItem("caudal:chat:mine") ?? "{}").conversation;
    await chat.sendMessage({ text: "one" });
    await chat.sendMessage({ text: "two" });
    const before = conversation();
    const answer = chat.lastMessage?.id;
    await chat.regenerate();
    expect(chat.messages).toHaveLength(4);
    expect(chat.lastMessage?.id).not.toBe(answer);
    expect(conversation()).toBe(before);
    expect((await said(client, before)).map((line) => line.split(":")[0])).toEqual([
      "user",
      "assistant",
      "user",
      "assistant",
    ]);

    await chat.sendMessage({ text: "edited", messageId: chat.messages[0]?.id ?? "" });
    expect(chat.messages.map(textOf)[0]).toBe("edited");
    expect(chat.messages).toHaveLength(2);
    expect((await said(client, conversation()))[0]).toBe("user: edited");
    expect(await said(client, before)).toHaveLength(4);
  });

  test("receives its place in the queue", async () => {
    const client = clientOf((await server({ ...scripted(5_000, 200), "engine.max_running": 1 })).url);
    const busy = client.responses.create({ input: "in the way" });
    await busy.id;
    const places: unknown[] = [];
    const transport = transportOf(client, { params: { max_output_tokens: 5 } });
    const chat = new Chat({ id: "mine", transport, onData: (part) => places.push(part) });
    const sent = chat.sendMessage({ text: "one" });
    await until(() => places.length > 0);
    await busy.cancel();
    await sent;
    expect(places[0]).toMatchObject({ type: "data-queue", data: { position: 1 } });
    expect(chat.lastMessage?.parts.map(({ type }) => type)).toEqual(["step-start", "text"]);
  });

  test("receives a network error", async () => {
    const reconnect = { initialDelayMs: 5, maxDelayMs: 10, giveUpAfterMs: 100 };
    const client = clientOf("http://127.0.0.1:9", { reconnect });
    const outcomes: boolean[] = [];
    const transport = transportOf(client);
    for (const id of ["mine", "conv_1"]) {
      const chat = new Chat({ id, transport, onFinish: ({ isDisconnect }) => outcomes.push(isDisconnect) });
      await chat.sendMessage({ text: "one" });
      expect([chat.status, chat.error?.message]).toEqual(["error", expect.stringContaining("network")]);
    }
    expect(outcomes).toEqual([true, true]);
  });

  test("receives errors", async () => {
    const client = clientOf((await server(scripted(5, 0))).url);
    const chat = new Chat({ id: "mine", transport: transportOf(client, { params: { model: "none" } }) });
    await chat.sendMessage({ text: "one" });
    expect(chat.status).toBe("error");
    expect(chat.error?.message).toContain("none");
  });
});

describe.each(CHATS)("tools of %s", (_, Chat) => {
  const CALL = '<tool_call> {"name": "weather", "arguments": {"city": "Faro"}} </tool_call> ';
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const calling = (): Record<string, string | number> => ({ ...scripted(7, 0), "engine.scripted.text": CALL });

  test("that the page runs: their outputs go on in the same message", async () => {
    const client = clientOf((await server(calling())).url);
    let asked = 0;
    const chat: Chat7<UIMessage> = new Chat({
      id: "mine",
      transport: transportOf(client, { tools: { weather: { parameters } } }),
      // The engine would call forever.
      sendAutomaticallyWhen: (state) => asked < 2 && lastAssistantMessageIsCompleteWithToolCalls(state),
      onToolCall: ({ toolCall }) => {
        asked++;
        void chat.addToolOutput({
          tool: toolCall.toolName as never,
          toolCallId: toolCall.toolCallId,
          output: "sun" as never,
        });
      },
    });
    await chat.sendMessage({ text: "weather?" });
    await until(() => asked === 2 && chat.status === "ready");
    expect(chat.messages).toHaveLength(2);
    const calls = chat.lastMessage?.parts.filter((part) => part.type === "tool-weather") ?? [];
    expect(calls).toMatchObject([
      { state: "output-available", input: { city: "Faro" }, output: "sun" },
      { input: { city: "Faro" } },
    ]);
  });

  test("that the transport runs need nothing of the page", async () => {
    const client = clientOf((await server(calling())).url);
    const cities: string[] = [];
    const chat = new Chat({
      id: "mine",
      transport: transportOf(client, {
        params: { max_output_tokens: 50 },
        tools: {
          weather: {
            parameters,
            execute: ({ city }: { city: string }) => {
              if (cities.push(city) === 2) throw new Error("no more");
              return { sky: "clear" };
            },
          },
        },
      }),
    });
    void chat.sendMessage({ text: "weather?" });
    await until(() => cities.length > 2);
    await chat.stop();
    const calls = chat.lastMessage?.parts.filter((part) => part.type === "tool-weather") ?? [];
    expect(calls[0]).toMatchObject({ state: "output-available", output: { sky: "clear" } });
    expect(calls[1]).toMatchObject({ state: "output-error", errorText: "no more" });
  });

  test("that have run are there after a reload in mid-turn, with their outputs", async () => {
    const client = clientOf((await server({ ...calling(), "engine.scripted.tokens_per_second": 10 })).url);
    const { id } = await client.conversations.create();
    const execute = (): string => "sun";
    const before = new Chat({ id, transport: transportOf(client, { tools: { weather: { parameters, execute } } }) });
    void before.sendMessage({ text: "weather?" });
    const callsOf = (chat: Chat7<UIMessage>): UIMessage["parts"] =>
      (chat.lastMessage?.parts ?? []).filter(({ type }) => type === "tool-weather");
    await until(() => callsOf(before).length === 2);
    await before.stop();

    const transport = transportOf(client, { tools: { weather: { parameters } } });
    const after = new Chat({ id, transport, messages: await transport.loadMessages(id) });
    await after.resumeStream();
    expect(after.messages.map(({ role }) => role)).toEqual(["user", "assistant"]);
    expect(callsOf(after)).toMatchObject([
      { state: "output-available", input: { city: "Faro" }, output: "sun" },
      { state: "input-available", input: { city: "Faro" } },
    ]);
  });

  test.each([true, false])("that need approval wait for it: approved %s", async (approved) => {
    const client = clientOf((await server(calling())).url);
    const { id } = await client.conversations.create();
    const cities: string[] = [];
    const chat = new Chat<UIMessage>({
      id,
      transport: transportOf(client, {
        tools: {
          weather: {
            parameters,
            needsApproval: true,
            execute: ({ city }: { city: string }) => {
              cities.push(city);
              return "sun";
            },
          },
        },
      }),
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    });
    await chat.sendMessage({ text: "weather?" });
    const part = chat.lastMessage?.parts.find(({ type }) => type === "tool-weather");
    expect(part).toMatchObject({ state: "approval-requested" });
    if (!part || !("approval" in part) || !part.approval) throw new Error("no approval is asked for");
    expect(cities).toEqual([]);
    await chat.addToolApprovalResponse({ id: part.approval.id, approved });
    await until(
      () =>
        chat.status === "ready" && chat.lastMessage?.parts.filter(({ type }) => type === "tool-weather").length === 2,
    );
    expect(cities).toEqual(approved ? ["Faro"] : []);
    const done = chat.lastMessage?.parts.find(({ type }) => type === "tool-weather");
    expect(done).toMatchObject({ state: approved ? "output-available" : "output-denied" });
    const items = await said(client, id);
    expect(items.slice(0, 3)).toEqual(["user: weather?", "function_call", "function_call_output"]);
    later(() => undefined);
  });
});
