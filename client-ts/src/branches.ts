/** Helpers of both `regenerate` methods. Loaded when used. */

import type { Http } from "./http.ts";
import type { InputItem } from "./items.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";
import type { Conversation, ConversationItem } from "./wire.ts";

/** The part of `client.conversations` that this module uses. */
interface WithItems {
  readonly items: {
    all(id: string, query: PageQuery): AsyncIterable<ConversationItem>;
    delete(id: string, item: string): Promise<Conversation>;
  };
}

/** The fields that a response and a create request share. */
const SETTINGS = [
  "model",
  "instructions",
  "previous_response_id",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "max_tool_calls",
  "text",
  "reasoning",
  "temperature",
  "top_p",
  "frequency_penalty",
  "presence_penalty",
  "top_logprobs",
  "max_output_tokens",
  "truncation",
  "store",
  "metadata",
] as const;

/** Deletes the items after the last message of the user. */
export async function takeBack({ items }: WithItems, id: string): Promise<void> {
  const answer: string[] = [];
  for await (const item of items.all(id, { limit: 100 })) {
    if (item.type === "message" && item.role === "user") break;
    answer.push(item.id);
  }
  // The newest item goes first: if the loop stops early, the remaining items are still the beginning of the
  // conversation.
  for (const item of answer) await items.delete(id, item);
}

/** Rebuilds the request that a response answered, from the fields that the server returns. */
export async function requestOf(http: Http, id: string): Promise<ResponseCreateParams> {
  const before = await http.get<ResponseObject>(["responses", id]);
  const list = (query: PageQuery): Promise<Page<InputItem>> => http.get(["responses", id, "input_items"], query);
  const input: InputItem[] = [];
  for await (const item of everyOne(list, { order: "asc", limit: 100 })) input.push(item);
  return { ...Object.fromEntries(SETTINGS.map((name) => [name, before[name]])), input };
}
