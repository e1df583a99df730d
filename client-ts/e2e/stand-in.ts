/** A server whose messages the test chooses, for situations that a real server cannot be brought into. */

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname } from "node:path";
import { WebSocketServer } from "ws";
import type { Json } from "../test/support/fake-socket.ts";

const CHAT = new URL("../chat/dist/", import.meta.url);
const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".webmanifest": "application/manifest+json",
};

/** The answers to GET requests. The items of the only conversation are answered with 503, see below. */
const DATA = (models: Json[]): Record<string, Json> => ({
  "/v1/models": { object: "list", data: models },
  "/v1/conversations": { object: "conversation", id: "conv_1", metadata: {} },
});

const EMPTY_LIST = { object: "list", data: [], has_more: false };

/** Requests for titles are never answered. */
const isTitle = ({ metadata }: Json): boolean => (metadata as Json | undefined)?.["purpose"] === "title";

export interface StandIn {
  url: string;
  /** The requests of the pages, in order. */
  readonly asked: readonly Json[];
  /** Resolves to the next request of this type. */
  next(type: string): Promise<Json>;
  /** Sends the events to every page. */
  say(...events: Json[]): void;
  stop(): Promise<void>;
}

export async function standIn(models: Json[] = [{ id: "stand-in" }]): Promise<StandIn> {
  const http = createServer(async (request, response) => {
    const path = new URL(request.url ?? "/", "http://x").pathname;
    const file = path === "/" ? "index.html" : path.slice(1);
    // A page that cannot read the items shows its stored turns. Without items it would drop them.
    if (path === "/v1/conversations/conv_1/items") return void response.writeHead(503).end();
    const lists = path === "/v1/conversations" && request.method === "GET";
    const data = lists ? EMPTY_LIST : DATA(models)[path];
    const body = data ? JSON.stringify(data) : await readFile(new URL(file, CHAT)).catch(() => undefined);
    response.writeHead(body ? 200 : 404, { "content-type": TYPES[extname(file)] ?? "application/json" }).end(body);
  });
  const sockets = new WebSocketServer({ server: http, handleProtocols: () => "caudal.responses.v1" });
  const asked: Json[] = [];
  const waiting: { type: string; resolve: (message: Json) => void }[] = [];
  sockets.on("connection", (socket) => {
    socket.send(JSON.stringify({ type: "caudal:session.created", connection_id: "c", heartbeat_ms: 0 }));
    socket.on("message", (data) => {
      const message = JSON.parse(String(data)) as Json;
      if (isTitle(message)) return;
      asked.push(message);
      const index = waiting.findIndex(({ type }) => type === message["type"]);
      if (index >= 0) waiting.splice(index, 1)[0]?.resolve(message);
    });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    asked,
    next: (type) => new Promise((resolve) => waiting.push({ type, resolve })),
    say: (...events) => {
      for (const socket of sockets.clients) for (const event of events) socket.send(JSON.stringify(event));
    },
    stop: async () => {
      for (const socket of sockets.clients) socket.terminate();
      http.closeAllConnections();
      http.close();
      await once(http, "close");
    },
  };
}
