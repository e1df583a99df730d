/** The objects of the Responses API as Caudal speaks them: what a request holds and what a response is. */

export type ResponseStatus = "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";

export interface InputTextPart {
  type: "input_text";
  text: string;
}

export interface InputMessage {
  type?: "message";
  role: "user" | "system" | "developer" | "assistant";
  content: string | readonly (InputTextPart | OutputTextPart)[];
}

export interface FunctionCallOutput {
  type: "function_call_output";
  call_id: string;
  output: string;
}

export type InputItem = InputMessage | FunctionCallOutput | OutputItem;

export interface OutputTextPart {
  type: "output_text";
  text: string;
  annotations: readonly unknown[];
  logprobs?: readonly unknown[];
}

export interface OutputMessage {
  type: "message";
  id: string;
  role: "assistant";
  status: "in_progress" | "completed" | "incomplete";
  content: readonly OutputTextPart[];
}

export interface FunctionCall {
  type: "function_call";
  id: string;
  call_id: string;
  name: string;
  arguments: string;
  status: "in_progress" | "completed" | "incomplete";
}

export interface ReasoningItem {
  type: "reasoning";
  id: string;
  summary: readonly { type: "summary_text"; text: string }[];
}

export type OutputItem = OutputMessage | FunctionCall | ReasoningItem;

export interface FunctionTool {
  type: "function";
  name: string;
  description?: string | null;
  parameters?: Record<string, unknown> | null;
  strict?: boolean | null;
}

export type ToolChoice = "none" | "auto" | "required" | { type: "function"; name: string };

export type TextFormat =
  | { type: "text" }
  | { type: "json_object" }
  | {
      type: "json_schema";
      name: string;
      schema: Record<string, unknown>;
      description?: string | null;
      strict?: boolean | null;
    };

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

/** A response: running, or as it ended. */
export interface ResponseObject {
  id: string;
  object: "response";
  created_at: number;
  completed_at: number | null;
  status: ResponseStatus;
  incomplete_details: { reason: "max_output_tokens" | "content_filter" | "cancelled" | (string & {}) } | null;
  model: string;
  previous_response_id: string | null;
  instructions: string | readonly InputItem[] | null;
  output: readonly OutputItem[];
  error: ResponseError | null;
  tools: readonly FunctionTool[];
  tool_choice: ToolChoice;
  truncation: "auto" | "disabled";
  parallel_tool_calls: boolean;
  text: { format: TextFormat };
  top_p: number;
  temperature: number;
  presence_penalty: number;
  frequency_penalty: number;
  top_logprobs: number;
  reasoning: { effort?: string | null; summary?: string | null } | null;
  usage: Usage | null;
  max_output_tokens: number | null;
  max_tool_calls: number | null;
  store: boolean;
  background: boolean;
  service_tier: string;
  metadata: Record<string, string>;
  safety_identifier: string | null;
  prompt_cache_key: string | null;
}

/** What `client.responses.create()` takes: the body of `POST /v1/responses`, with Caudal's own optional fields. */
export interface ResponseCreateParams {
  input?: string | readonly InputItem[];
  model?: string;
  instructions?: string | null;
  /** Continue from this response. Not together with `conversation`. */
  previous_response_id?: string | null;
  conversation?: string | { id: string } | null;
  /** Whether the server keeps the response for `retrieve` and `previous_response_id`. Default true. */
  store?: boolean;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  max_output_tokens?: number;
  top_logprobs?: number;
  include?: readonly string[];
  tools?: readonly FunctionTool[];
  tool_choice?: ToolChoice;
  parallel_tool_calls?: boolean;
  text?: { format: TextFormat };
  reasoning?: { effort?: string | null; summary?: string | null } | null;
  truncation?: "auto" | "disabled";
  /** Which goes first where requests wait. */
  service_tier?: "auto" | "default" | "priority" | "flex";
  metadata?: Record<string, string>;
  prompt?: { id: string; version?: string | null; variables?: Record<string, string> };
  prompt_cache_key?: string;
  safety_identifier?: string;
  user?: string;
  /** The same seed and request give the same text. An unsigned 64-bit number; beyond 2^53 JavaScript rounds it. */
  seed?: number;
  stop?: readonly string[];
  cache?: { mode: "off" | "read" | "read_write"; ttl_s?: number };
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
  context_length?: number;
  quantisation?: string | null;
}
