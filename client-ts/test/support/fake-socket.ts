import type { WebSocketConstructor, WebSocketLike } from "../../src/index.ts";

type Listener = (event: { data: unknown; code: number; reason: string }) => void;
type Json = Record<string, unknown>;

/** A socket whose server is the test. */
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

  /** The handshake and the greeting. */
  accept(greeting: Json = {}): void {
    this.protocol = "caudal.responses.v1";
    this.#emit("open", {});
    this.receive({ type: "caudal:session.created", connection_id: "c", heartbeat_ms: 0, ...greeting });
  }

  receive(message: Json): void {
    this.#emit("message", { data: JSON.stringify(message) });
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

/** The events of one response: created, a delta for each word, completed. */
export function eventsOf(responseId: string, streamId: unknown, words: string[]): Json[] {
  const response = { id: responseId, object: "response", status: "in_progress", output: [], error: null };
  const events: Json[] = [
    { type: "response.created", response },
    ...words.map((delta) => ({ type: "response.output_text.delta", delta })),
    { type: "response.completed", response: { ...response, status: "completed" } },
  ];
  return events.map((event, sequence_number) => ({
    ...event,
    sequence_number,
    response_id: responseId,
    stream_id: streamId,
  }));
}
