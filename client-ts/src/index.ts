export type { ReconnectOptions } from "./backoff.ts";
export { CaudalClient, type CaudalClientOptions } from "./client.ts";
export type {
  Conversation,
  ConversationCreateParams,
  ConversationForkParams,
  ConversationItem,
  ConversationItems,
  Conversations,
  Edited,
  StoredMessage,
  TurnParams,
} from "./conversations.ts";
export {
  ApiError,
  type ApiErrorBody,
  AuthenticationError,
  CancelledError,
  CaudalError,
  ClientClosedError,
  ConflictError,
  ConnectionError,
  DetachedError,
  InputError,
  InvalidRequestError,
  NotFoundError,
  OutputFormatError,
  ProtocolError,
  QueueFullError,
  RateLimitError,
  ResponseFailedError,
  ResumeExpiredError,
  ServerError,
  SteerError,
  TooManyTurnsError,
} from "./errors.ts";
export type {
  ContentPartEvent,
  FunctionCallArgumentsDeltaEvent,
  FunctionCallArgumentsDoneEvent,
  OutputItemEvent,
  OutputTextDeltaEvent,
  OutputTextDoneEvent,
  QueuePosition,
  ReasoningSummaryPartEvent,
  ReasoningSummaryTextDeltaEvent,
  ReasoningSummaryTextDoneEvent,
  ResponseEvent,
  ResponseLifecycleEvent,
  ResponseTerminalEvent,
} from "./events.ts";
export type { ResponseHandle, SteerResult, TextOptions as ReadTextOptions } from "./handle.ts";
export type {
  FunctionCall,
  FunctionCallInput,
  FunctionCallOutput,
  InputItem,
  InputMessage,
  InputTextPart,
  ItemStatus,
  Logprob,
  OutputItem,
  OutputMessage,
  OutputTextPart,
  ReasoningInput,
  ReasoningItem,
  SummaryTextPart,
  TokenLogprob,
} from "./items.ts";
export type { ConnectionState } from "./link.ts";
export type { Models } from "./models.ts";
export { outputText } from "./output-text.ts";
export type { Page, PageQuery } from "./pages.ts";
export type { PromptCreateParams, Prompts, StoredPrompt } from "./prompts.ts";
export type { FunctionCallStream } from "./reading.ts";
export type { FollowOptions, Responses, ResumeOptions } from "./responses.ts";
export type { ResumeTarget, Retry } from "./run.ts";
export { type Check, jsonFormat, jsonSchemaOf, type StandardJsonSchema, type StandardSchema } from "./schema.ts";
export type { WebSocketConstructor, WebSocketLike } from "./socket.ts";
export type { ExpiringToken, TokenSource } from "./tokens.ts";
export {
  type RunToolsOptions,
  type RunToolsParams,
  runTools,
  type Tool,
  type ToolCall,
  type ToolRun,
} from "./tools.ts";
export type {
  CacheOptions,
  FunctionTool,
  GrammarFormat,
  JsonSchemaFormat,
  Model,
  NamedFunction,
  ReasoningOptions,
  ResponseCreateParams,
  ResponseError,
  ResponseObject,
  ResponseStatus,
  StoredPromptReference,
  TextFormat,
  TextOptions,
  ToolChoice,
  Usage,
} from "./types.ts";
export type { Compaction, CompactionItem, Input, RequiredInput } from "./wire.ts";
