/** The input and output items of a conversation. `type` tells them apart. */

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
} from "./wire.ts";
