/** The request and response types of the Responses API. */

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

/** A Caudal extension: a grammar that the output text matches. */
export type GrammarFormat = Extract<wire.TextFormatParam, { type: "grammar" }>;

/**
 * The parameters of `client.responses.create()`: the body of `POST /v1/responses`, with Caudal's own optional fields.
 * Left out are the fields about streaming, because a socket always streams, and OpenAI's hints that Caudal ignores.
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
