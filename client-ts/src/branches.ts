/** Forks of conversations and second answers. Loaded when used. */

import { InputError } from "./errors.ts";
import type { InputItem } from "./items.ts";
import { everyOne, type Page, type PageQuery } from "./pages.ts";
import type { ResponseCreateParams, ResponseObject } from "./types.ts";
import type { Conversation, ConversationCreateParams, ConversationItem } from "./wire.ts";

export interface ForkParams {
  /** The item before which the copy ends. */
  before?: string;
  metadata?: Record<string, string>;
}

/** What is needed of `client.conversations`. */
interface Kept {
  create(params: ConversationCreateParams): Promise<Conversation>;
  readonly items: {
    all(id: string, query: PageQuery): AsyncIterable<ConversationItem>;
    create(id: string, items: readonly InputItem[]): Promise<Page<ConversationItem>>;
    delete(id: string, item: string): Promise<Conversation>;
  };
}

/** Items that one request may bring. */
const ITEMS_AT_ONCE = 20;

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

export async function fork(conversations: Kept, id: string, { before, ...rest }: ForkParams): Promise<Conversation> {
  const kept: ConversationItem[] = [];
  let found = before === undefined;
  for await (const item of conversations.items.all(id, { order: "asc", limit: 100 })) {
    found ||= item.id === before;
    if (item.id === before) break;
    kept.push(item);
  }
  if (!found) throw new InputError(`The conversation has no item ${before}.`);
  const items = kept as unknown as InputItem[];
  const copy = await conversations.create({ ...rest, items: items.slice(0, ITEMS_AT_ONCE) });
  for (let from = ITEMS_AT_ONCE; from < items.length; from += ITEMS_AT_ONCE) {
    await conversations.items.create(copy.id, items.slice(from, from + ITEMS_AT_ONCE));
  }
  return copy;
}

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
export async function requestOf(
  response: Promise<ResponseObject>,
  input: (query: PageQuery) => Promise<Page<InputItem>>,
): Promise<ResponseCreateParams> {
  const items: InputItem[] = [];
  const [before] = await Promise.all([
    response,
    (async () => {
      for await (const item of everyOne(input, { order: "asc", limit: 100 })) items.push(item);
    })(),
  ]);
  return { ...Object.fromEntries(SETTINGS.map((name) => [name, before[name]])), input: items };
}
