/** The objects of the Responses API as Caudal speaks them: what a request holds and what a response is. */

import type { InputItem, OutputItem } from "./items.ts";

/** One of these, or what a newer server adds. Editors offer the names. */
type Open<T extends string> = T | (string & {});

export interface FunctionTool {
  type: "function";
  name: string;
  description?: string | null;
  /** A JSON Schema of the arguments. */
  parameters?: Record<string, unknown> | null;
  strict?: boolean | null;
}

export interface NamedFunction {
  type: "function";
  name: string;
}

export type ToolChoice =
  | "none"
  | "auto"
  | "required"
  | NamedFunction
  | { type: "allowed_tools"; mode: "auto" | "required"; tools: readonly NamedFunction[] };

export interface JsonSchemaFormat {
  type: "json_schema";
  name: string;
  schema: Record<string, unknown>;
  description?: string | null;
  strict?: boolean | null;
}

/** An extension: a grammar that the text follows. */
export interface GrammarFormat {
  type: "grammar";
  syntax: "lark" | "regex";
  definition: string;
}

/** What the text has to be. The server holds the model to it, token by token. */
export type TextFormat = { type: "text" } | { type: "json_object" } | JsonSchemaFormat | GrammarFormat;

export interface TextOptions {
  format?: TextFormat;
  verbosity?: Open<"low" | "medium" | "high"> | null;
}

export interface ReasoningOptions {
  effort?: Open<"none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max"> | null;
  summary?: Open<"auto" | "concise" | "detailed"> | null;
}

export interface StoredPromptReference {
  id: string;
  /** The newest when left out. */
  version?: string | null;
  variables?: Record<string, string>;
}

/** Whether a request that repeats another one word for word is answered with that one's reply. */
export interface CacheOptions {
  /** Default `read_write` for requests that are seeded or of temperature 0, `off` for others. */
  mode?: "off" | "read" | "read_write";
  /** How long the reply may be repeated. */
  ttl_s?: number;
  /** Told at once, or about as fast as it was generated. Default `instant`. */
  replay?: "instant" | "paced";
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
  input_tokens_details: { cached_tokens: number };
  output_tokens_details: { reasoning_tokens: number };
}

export interface ResponseError {
  code: string;
  message: string;
}

export type ResponseStatus = "queued" | "in_progress" | "completed" | "incomplete" | "failed";

/** A response: running, or as it ended. */
export interface ResponseObject {
  id: string;
  object: "response";
  created_at: number;
  completed_at: number | null;
  status: ResponseStatus;
  incomplete_details: { reason: Open<"max_output_tokens" | "content_filter" | "cancelled"> } | null;
  model: string;
  previous_response_id: string | null;
  conversation?: { id: string } | null;
  instructions: string | readonly InputItem[] | null;
  output: readonly OutputItem[];
  error: ResponseError | null;
  tools: readonly FunctionTool[];
  tool_choice: ToolChoice;
  truncation: "auto" | "disabled";
  /** What `truncation: "auto"` left out of the prompt: whole turns, the oldest first. Only there when it did. */
  truncation_details?: { dropped_turns: number };
  parallel_tool_calls: boolean;
  text: TextOptions;
  top_p: number;
  temperature: number;
  presence_penalty: number;
  frequency_penalty: number;
  top_logprobs: number;
  reasoning: ReasoningOptions | null;
  usage: Usage | null;
  max_output_tokens: number | null;
  max_tool_calls: number | null;
  prompt?: StoredPromptReference | null;
  store: boolean;
  background: boolean;
  service_tier: string;
  metadata: Record<string, string>;
  safety_identifier: string | null;
  prompt_cache_key: string | null;
  user?: string | null;
}

/** What `client.responses.create()` takes: the body of `POST /v1/responses`, with Caudal's own optional fields. */
export interface ResponseCreateParams {
  input?: string | readonly InputItem[];
  model?: string;
  instructions?: string | null;
  /** Continue from this response. Not together with `conversation`. */
  previous_response_id?: string | null;
  /** Continue this conversation; both sides of the turn are added to it. */
  conversation?: string | { id: string } | null;
  /** Whether the server keeps the response for `retrieve` and `previous_response_id`. Default true. */
  store?: boolean;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  repetition_penalty?: number;
  /** From token ids to what is added to their logits, -100 to 100. */
  logit_bias?: Record<string, number>;
  max_output_tokens?: number;
  /** How many alternatives each token of the text comes with, in `logprobs`. */
  top_logprobs?: number;
  /** `top_logprobs` brings the log-probabilities too; this asks for those of the chosen tokens alone. */
  include?: readonly Open<"message.output_text.logprobs">[];
  tools?: readonly FunctionTool[];
  tool_choice?: ToolChoice;
  parallel_tool_calls?: boolean;
  max_tool_calls?: number;
  text?: TextOptions;
  reasoning?: ReasoningOptions | null;
  truncation?: "auto" | "disabled";
  /** Which goes first where requests wait. */
  service_tier?: "auto" | "default" | "priority" | "flex";
  metadata?: Record<string, string>;
  prompt?: StoredPromptReference;
  prompt_cache_key?: string;
  safety_identifier?: string;
  user?: string;
  /** The same seed and request give the same text. An unsigned 64-bit number; beyond 2^53 JavaScript rounds it. */
  seed?: number;
  stop?: string | readonly string[];
  cache?: CacheOptions;
  /** false: only warm the model up for this prompt. */
  generate?: boolean;
  /**
   * Makes the request idempotent: the server answers a second create that has the same id with the first one's
   * response, from its start. Made up when left out; name your own to ask again after a page reload.
   */
  client_request_id?: string;
}

export interface Model {
  id: string;
  object: "model";
  created: number;
  owned_by: string;
  /** Tokens that prompt and output may take together. */
  context_length?: number;
  quantisation?: string | null;
  /** Other names that select it. */
  aliases?: readonly string[];
  /** LoRA adapters that are part of it. */
  adapters?: readonly string[];
  /** What a request that says nothing is sampled with. */
  sampling?: Partial<Record<"temperature" | "top_p" | "top_k" | "min_p" | "repetition_penalty", number | null>>;
  capabilities?: {
    structured_output: boolean;
    logprobs: boolean;
    /** Whether the model's own template describes tools to it, or a prompt of the server does. */
    tools: Open<"template" | "prompt">;
    /** Whether it thinks before it answers. */
    reasoning: boolean;
  };
}
