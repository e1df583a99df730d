/** What a conversation is made of: the items that go in, and those that come out. `type` tells them apart. */

export interface InputTextPart {
  type: "input_text";
  text: string;
}

/** How likely a token was, as a natural logarithm. */
export interface TokenLogprob {
  token: string;
  logprob: number;
  /** The token's UTF-8 bytes: a token may be half a character. */
  bytes?: readonly number[] | null;
}

/** A token of the text, with the likeliest ones in its place: as many as `top_logprobs` asked for. */
export interface Logprob extends TokenLogprob {
  top_logprobs: readonly TokenLogprob[];
}

export interface OutputTextPart {
  type: "output_text";
  text: string;
  annotations?: readonly unknown[];
  logprobs?: readonly Logprob[];
}

export type ItemStatus = "in_progress" | "completed" | "incomplete";

export interface InputMessage {
  type?: "message";
  role: "user" | "system" | "developer" | "assistant";
  content: string | readonly (InputTextPart | OutputTextPart)[];
  id?: string;
  status?: ItemStatus;
}

/** The result of a function that the model called. */
export interface FunctionCallOutput {
  type: "function_call_output";
  call_id: string;
  output: string | readonly InputTextPart[];
  id?: string;
  status?: ItemStatus;
}

/** A call as it is given back to the model where no `previous_response_id` does it. */
export interface FunctionCallInput {
  type: "function_call";
  call_id: string;
  name: string;
  arguments: string;
  id?: string;
  status?: ItemStatus;
}

export interface SummaryTextPart {
  type: "summary_text";
  text: string;
}

export interface ReasoningInput {
  type: "reasoning";
  summary: readonly SummaryTextPart[];
  id?: string;
  status?: ItemStatus;
}

/** What a request's `input` may hold. Every output item may go back in as it came. */
export type InputItem = InputMessage | FunctionCallInput | FunctionCallOutput | ReasoningInput;

export interface OutputMessage {
  type: "message";
  id: string;
  role: "assistant";
  status: ItemStatus;
  content: readonly OutputTextPart[];
}

/** The model asks for a function. `arguments` is JSON as the model wrote it: nobody has checked it. */
export interface FunctionCall {
  type: "function_call";
  id: string;
  /** What the `function_call_output` names. */
  call_id: string;
  name: string;
  arguments: string;
  status: ItemStatus;
}

/** What the model thought before it answered. */
export interface ReasoningItem {
  type: "reasoning";
  id: string;
  summary: readonly SummaryTextPart[];
  status?: ItemStatus;
}

export type OutputItem = OutputMessage | FunctionCall | ReasoningItem;
