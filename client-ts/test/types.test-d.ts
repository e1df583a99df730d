/** Compiled by `npm run types`, never run: each line fails to compile if the public types change. */

import { expectTypeOf } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import {
  ApiError,
  CaudalClient,
  type CaudalError,
  type ConnectionState,
  RateLimitError,
  type ResponseEvent,
  type ResponseHandle,
  type ResponseObject,
  type WebSocketConstructor,
} from "../src/index.ts";

// The sockets that callers have fit without a cast.
expectTypeOf(NodeWebSocket).toExtend<WebSocketConstructor>();
expectTypeOf(globalThis.WebSocket).toExtend<WebSocketConstructor>();

const client = new CaudalClient({ url: "https://host", token: async () => "t", webSocket: NodeWebSocket });
expectTypeOf(client.connectionState).toEqualTypeOf<ConnectionState>();

const handle = client.responses.create({ input: [{ role: "user", content: "hi" }], temperature: 0 });
expectTypeOf(handle).toEqualTypeOf<ResponseHandle>();
expectTypeOf(handle.id).toEqualTypeOf<Promise<string>>();
expectTypeOf(handle.responseId).toEqualTypeOf<string | undefined>();
expectTypeOf(handle.final()).toEqualTypeOf<Promise<ResponseObject>>();
expectTypeOf(handle.text()).toExtend<AsyncIterable<string>>();
expectTypeOf(handle).toExtend<AsyncIterable<ResponseEvent>>();

// `type` tells the events apart.
export function narrow(event: ResponseEvent): void {
  if (event.type === "response.output_text.delta") expectTypeOf(event.delta).toEqualTypeOf<string>();
  if (event.type === "response.completed") expectTypeOf(event.response).toEqualTypeOf<ResponseObject>();
  // @ts-expect-error a delta is on delta events only
  event.delta;
}

expectTypeOf<RateLimitError>().toExtend<ApiError>();
expectTypeOf<ApiError>().toExtend<CaudalError>();
expectTypeOf<ApiError["retryAfterMs"]>().toEqualTypeOf<number | undefined>();
export const classes: (typeof ApiError)[] = [ApiError, RateLimitError];

// @ts-expect-error the address is required
new CaudalClient({});
// @ts-expect-error lanes are the client's business
client.responses.create({ input: "hi", stream_id: "mine" });
// @ts-expect-error a misspelt field is no field
client.responses.create({ input: "hi", max_tokens: 5 });
// @ts-expect-error undefined is not a left-out value
client.responses.create({ input: undefined });
