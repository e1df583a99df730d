export type { ReconnectOptions } from "./backoff.ts";
export {
  CaudalClient,
  type CaudalClientOptions,
  type FollowOptions,
  type Models,
  type Responses,
  type ResumeOptions,
} from "./client.ts";
export {
  ApiError,
  type ApiErrorBody,
  AuthenticationError,
  CancelledError,
  CaudalError,
  ClientClosedError,
  ConnectionError,
  DetachedError,
  InvalidRequestError,
  NotFoundError,
  ProtocolError,
  RateLimitError,
  ResponseFailedError,
  ResumeExpiredError,
  ServerError,
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
export type { ResponseHandle } from "./handle.ts";
export type { ConnectionState } from "./link.ts";
export { outputText } from "./output-text.ts";
export type { WebSocketConstructor, WebSocketLike } from "./socket.ts";
export type {
  FunctionCall,
  FunctionCallOutput,
  FunctionTool,
  InputItem,
  InputMessage,
  InputTextPart,
  Model,
  OutputItem,
  OutputMessage,
  OutputTextPart,
  ReasoningItem,
  ResponseCreateParams,
  ResponseError,
  ResponseObject,
  ResponseStatus,
  TextFormat,
  ToolChoice,
  Usage,
} from "./types.ts";
