import type { WebSocketConstructor, WebSocketLike } from "../../src/index.ts";

type Listener = (event: { data: unknown; code: number; reason: string }) => void;
export type Json = Record<string, unknown>;

/** A socket for which the test plays the server. */
export class FakeSocket implements WebSocketLike {
  protocol = "";
  readonly url: string;
  readonly protocols: string[];
  readonly sent: Json[] = [];
  closedWith: number | undefined;
  readonly #listeners = new Map<string, Listener[]>();

  constructor(url: string, protocols: string[]) {
    this.url = url;
    this.protocols = protocols;
  }

  addEventListener(type: string, listener: (event: never) => void): void {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener as Listener]);
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data) as Json);
  }

  close(code?: number): void {
    this.closedWith = code;
  }

  /** Completes the handshake and sends the greeting. */
  accept(greeting: Json = {}): void {
    this.protocol = "caudal.responses.v1";
    this.#emit("open", {});
    this.receive({ type: "caudal:session.created", connection_id: "c", heartbeat_ms: 0, ...greeting });
  }

  receive(message: Json): void {
    this.receiveText(JSON.stringify(message));
  }

  receiveText(data: string): void {
    this.#emit("message", { data });
  }

  lose(code = 1006): void {
    this.#emit("close", { code, reason: "" });
  }

  sentOf(type: string): Json[] {
    return this.sent.filter((message) => message["type"] === type);
  }

  #emit(type: string, event: Partial<{ data: unknown; code: number; reason: string }>): void {
    for (const listener of this.#listeners.get(type) ?? []) listener({ data: "", code: 0, reason: "", ...event });
  }
}

export interface FakeNet {
  webSocket: WebSocketConstructor;
  sockets: FakeSocket[];
  readonly last: FakeSocket;
}

export function fakeNet(): FakeNet {
  const sockets: FakeSocket[] = [];
  return {
    sockets,
    webSocket: class extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    },
    get last(): FakeSocket {
      const socket = sockets.at(-1);
      if (!socket) throw new Error("no socket was opened");
      return socket;
    },
  };
}

/** Returns the events of one response: created, a delta for each word, completed. */
export function eventsOf(responseId: string, streamId: unknown, words: string[]): Json[] {
  const response = { id: responseId, object: "response", status: "in_progress", output: [], error: null };
  return numbered(responseId, streamId, [
    { type: "response.created", response },
    ...words.map((delta) => ({ type: "response.output_text.delta", delta })),
    { type: "response.completed", response: { ...response, status: "completed" } },
  ]);
}

export type Output = { text: string } | { thoughts: string[] } | { call: string; callId: string; arguments: string };

/** Returns all events of a response with these outputs, in the protocol's order. */
export function answering(responseId: string, streamId: unknown, outputs: Output[], ended: Json = {}): Json[] {
  const response = { id: responseId, object: "response", status: "in_progress", output: [], error: null };
  const items = outputs.map(itemOf);
  const { status = "completed" } = ended;
  return numbered(responseId, streamId, [
    { type: "response.created", response },
    ...outputs.flatMap((output, output_index) => {
      const item = items[output_index] ?? {};
      const place = { item_id: item["id"], output_index };
      return [
        { type: "response.output_item.added", output_index, item: { ...item, ...EMPTY } },
        ...middle(output, place),
        { type: "response.output_item.done", output_index, item },
      ];
    }),
    { type: `response.${String(status)}`, response: { ...response, status, output: items, ...ended } },
  ]);
}

const EMPTY = { arguments: "", content: [], summary: [], status: "in_progress" };

function itemOf(output: Output, index: number): Json {
  const id = `item_${index}`;
  if ("text" in output) {
    return { type: "message", id, role: "assistant", content: [{ type: "output_text", text: output.text }] };
  }
  if ("thoughts" in output) {
    return { type: "reasoning", id, summary: output.thoughts.map((text) => ({ type: "summary_text", text })) };
  }
  return { type: "function_call", id, call_id: output.callId, name: output.call, arguments: output.arguments };
}

function middle(output: Output, place: Json): Json[] {
  if ("text" in output) {
    return halves(output.text).map((delta) => ({ ...place, type: "response.output_text.delta", delta }));
  }
  if ("thoughts" in output) {
    return output.thoughts.flatMap((text, summary_index) => [
      {
        ...place,
        type: "response.reasoning_summary_part.added",
        summary_index,
        part: { type: "summary_text", text: "" },
      },
      ...halves(text).map((delta) => ({
        ...place,
        type: "response.reasoning_summary_text.delta",
        summary_index,
        delta,
      })),
      { ...place, type: "response.reasoning_summary_text.done", summary_index, text },
      { ...place, type: "response.reasoning_summary_part.done", summary_index, part: { type: "summary_text", text } },
    ]);
  }
  return [
    ...halves(output.arguments).map((delta) => ({ ...place, type: "response.function_call_arguments.delta", delta })),
    { ...place, type: "response.function_call_arguments.done", arguments: output.arguments },
  ];
}

function halves(text: string): string[] {
  const middle = Math.ceil(text.length / 2);
  return [text.slice(0, middle), text.slice(middle)];
}

export function numbered(responseId: string, streamId: unknown, events: Json[]): Json[] {
  return events.map((event, sequence_number) => ({
    ...event,
    sequence_number,
    response_id: responseId,
    stream_id: streamId,
  }));
}
