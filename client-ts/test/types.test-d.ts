/** Compiled by `npm run types`, never run: each line fails to compile if the public types change. */

import { expectTypeOf } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import {
  ApiError,
  CaudalClient,
  type CaudalError,
  type ConnectionState,
  type FunctionCallStream,
  type InputItem,
  type OutputItem,
  RateLimitError,
  type ResponseEvent,
  type ResponseHandle,
  type ResponseObject,
  runTools,
  type SummaryTextPart,
  type Tool,
  type ToolRun,
  type WebSocketConstructor,
} from "../src/index.ts";

// The WebSocket classes of callers fit without a cast.
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

// Readers of an answer.
expectTypeOf(handle.reasoning()).toExtend<AsyncIterable<string>>();
expectTypeOf(handle.functionCalls()).toExtend<AsyncIterable<FunctionCallStream>>();
expectTypeOf(handle.json()).toEqualTypeOf<Promise<unknown>>();
expectTypeOf(handle.json<{ city: string }>()).toEqualTypeOf<Promise<{ city: string }>>();
expectTypeOf(handle.json((value) => String(value))).toEqualTypeOf<Promise<string>>();

// `type` tells input and output items apart; an output item is a valid input item.
export function narrowItem(item: OutputItem): InputItem {
  if (item.type === "function_call") expectTypeOf(item.arguments).toEqualTypeOf<string>();
  if (item.type === "reasoning") expectTypeOf(item.summary).toEqualTypeOf<readonly SummaryTextPart[]>();
  // @ts-expect-error a call is no message
  if (item.type === "function_call") item.content;
  return item;
}
client.responses.create({
  input: [
    { role: "user", content: [{ type: "input_text", text: "hi" }] },
    { type: "function_call", call_id: "a", name: "f", arguments: "{}" },
    { type: "function_call_output", call_id: "a", output: "1" },
  ],
  text: { format: { type: "json_schema", name: "city", schema: { type: "object" } } },
  tools: [{ type: "function", name: "f" }],
  tool_choice: { type: "function", name: "f" },
  reasoning: { effort: "low" },
  include: ["message.output_text.logprobs"],
  top_logprobs: 2,
});
// @ts-expect-error an output names its call
client.responses.create({ input: [{ type: "function_call_output", output: "1" }] });
// @ts-expect-error a schema has a name
client.responses.create({ text: { format: { type: "json_schema", schema: {} } } });
// @ts-expect-error there is no such mode
client.responses.create({ cache: { mode: "write" } });

// A tool's own annotations give the type of its arguments; a `Tool`'s check must agree with them.
interface City {
  city: string;
}
const checked: Tool<City> = { parse: (args) => args as City, execute: (args) => args.city };
expectTypeOf(
  runTools(client, { input: "hi", tools: { checked, typed: { execute: ({ city }: City) => city } } }),
).toEqualTypeOf<ToolRun>();
// @ts-expect-error the check and the function disagree
export const torn: Tool<City> = { parse: () => ({ town: "x" }), execute: ({ city }) => city };
// @ts-expect-error the arguments have no type
runTools(client, { tools: { f: { execute: ({ city }) => city } } });
