import { afterEach } from "vitest";
import { WebSocket } from "ws";
import { CaudalClient, type CaudalClientOptions, type ResponseHandle } from "../../src/index.ts";
import { type Network, startProxy } from "./proxy.ts";
import { type Server, startServer } from "./server.ts";

export interface Online {
  /** Registers a cleanup that runs after the test. */
  later(cleanup: () => void | Promise<void>): void;
  server(settings: Record<string, string | number>): Promise<Server>;
  /** Starts a server behind a network that the test can break. */
  proxied(settings: Record<string, string | number>): Promise<Network>;
  clientOf(url: string, options?: Partial<CaudalClientOptions>): CaudalClient;
}

/** Sets up real servers and clients that are closed after each test. Call it at the top of a test file. */
export function online(): Online {
  const cleanups: (() => void | Promise<void>)[] = [];

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  const server = async (settings: Record<string, string | number>): Promise<Server> => {
    const started = await startServer(settings);
    cleanups.push(() => started.stop());
    return started;
  };
  return {
    later: (cleanup) => void cleanups.push(cleanup),
    server,
    proxied: async (settings) => {
      const proxy = await startProxy((await server(settings)).url);
      cleanups.push(() => proxy.close());
      return proxy;
    },
    clientOf: (url, options = {}) => {
      const client = new CaudalClient({
        url,
        webSocket: WebSocket,
        reconnect: { initialDelayMs: 5, maxDelayMs: 50, giveUpAfterMs: 10_000 },
        ...options,
      });
      cleanups.push(() => client.close());
      return client;
    },
  };
}

export async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

export async function textOf(handle: ResponseHandle): Promise<string> {
  return (await all(handle.text())).join("");
}

export async function sequenceOf(handle: ResponseHandle): Promise<number[]> {
  return (await all(handle)).map((event) => event.sequence_number);
}

export const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n);
