/** What a conversation is made of: the items that go in, and those that come out. `type` tells them apart. */

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
