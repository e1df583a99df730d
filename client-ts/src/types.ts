/** The objects of the Responses API as Caudal speaks them: what a request holds and what a response is. */

import type * as wire from "./wire.ts";

export type {
  CacheOptions,
  FunctionToolParam as FunctionTool,
  Model,
  NamedFunction,
  ReasoningOptions,
  ResponseError,
  ResponseObject,
  ResponseStatus,
  StoredPromptReference,
  TextFormatParam as TextFormat,
  TextOptionsParam as TextOptions,
  ToolChoice,
  Usage,
} from "./wire.ts";

export type JsonSchemaFormat = Extract<wire.TextFormatParam, { type: "json_schema" }>;

/** An extension: a grammar that the text follows. */
export type GrammarFormat = Extract<wire.TextFormatParam, { type: "grammar" }>;

/**
 * What `client.responses.create()` takes: the body of `POST /v1/responses`, with Caudal's own optional fields. A socket
 * streams what it creates, so the fields about that are left out, and so are OpenAI's hints that do nothing here.
 */
export type ResponseCreateParams = Omit<
  wire.ResponseCreateParams,
  | "stream"
  | "stream_options"
  | "background"
  | "background_options"
  | "client_metadata"
  | "prompt_cache_retention"
  | "prompt_cache_options"
  | "access_programs"
>;
