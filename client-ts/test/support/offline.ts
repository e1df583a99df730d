import { afterEach, beforeEach, vi } from "vitest";
import { CaudalClient, type CaudalClientOptions, type ResponseHandle } from "../../src/index.ts";
import { type FakeNet, fakeNet } from "./fake-socket.ts";

export interface Offline {
  readonly net: FakeNet;
  /** Makes the client of this test. */
  connect(options?: Partial<CaudalClientOptions>): CaudalClient;
  /** Lets promises settle without moving the clock. */
  settle(): Promise<unknown>;
  text(handle: ResponseHandle): Promise<string>;
  lose(code?: number): Promise<void>;
}

/** Sets up clients with a fake server, clock and random source. Call it at the top of a test file. */
export function offline(): Offline {
  const net = fakeNet();
  let client: CaudalClient | undefined;

  beforeEach(() => {
    vi.useFakeTimers();
    vi.spyOn(Math, "random").mockReturnValue(1);
    net.sockets.length = 0;
  });

  afterEach(() => {
    client?.close();
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);
  return {
    net,
    settle,
    connect: (options = {}) => {
      client = new CaudalClient({
        url: "http://caudal.test",
        webSocket: net.webSocket,
        fetch: async () => {
          throw new TypeError("network");
        },
        reconnect: { initialDelayMs: 100, maxDelayMs: 1000 },
        ...options,
      });
      return client;
    },
    text: async (handle) => {
      let all = "";
      for await (const delta of handle.text()) all += delta;
      return all;
    },
    lose: async (code) => {
      net.last.lose(code);
      await settle();
    },
  };
}
