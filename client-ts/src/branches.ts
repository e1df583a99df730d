/** What second answers take. Loaded when used. */

import type { Http } from "./http.ts";
import type { InputItem } from "./items.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";
import type { Conversation, ConversationItem } from "./wire.ts";

/** What is needed of `client.conversations`. */
interface Kept {
  readonly items: {
    all(id: string, query: PageQuery): AsyncIterable<ConversationItem>;
    delete(id: string, item: string): Promise<Conversation>;
  };
}

/** What a response and a request for the like have in common. */
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

/** Deletes the last answer of a conversation. */
export async function takeBack({ items }: Kept, id: string): Promise<void> {
  const answer: string[] = [];
  for await (const item of items.all(id, { limit: 100 })) {
    if (item.type === "message" && item.role === "user") break;
    answer.push(item.id);
  }
  // The newest first: if this is cut short, what is left is still the beginning of the conversation.
  for (const item of answer) await items.delete(id, item);
}

/** The request that a response answered, as far as the server tells. */
export async function requestOf(http: Http, id: string): Promise<ResponseCreateParams> {
  const before = await http.get<ResponseObject>(["responses", id]);
  const list = (query: PageQuery): Promise<Page<InputItem>> => http.get(["responses", id, "input_items"], query);
  const input: InputItem[] = [];
  for await (const item of everyOne(list, { order: "asc", limit: 100 })) input.push(item);
  return { ...Object.fromEntries(SETTINGS.map((name) => [name, before[name]])), input };
}
