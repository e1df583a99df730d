/** Converts conversations to AI SDK's messages, and back. */

import type { UIMessage } from "ai";
import type { Conversations } from "../conversations.ts";
import { isRecord } from "../errors.ts";
import type { ConversationItem, FunctionCallOutput, InputItem } from "../wire.ts";
import { type Chunk, callChunk, parsed } from "./chunks.ts";

type Part = UIMessage["parts"][number];

/** A call in a message, whatever its tool. */
export interface ToolPart {
  toolCallId: string;
  toolName: string;
  state: string;
  input?: unknown;
  output?: unknown;
  errorText?: string;
  approval?: { id: string; approved?: boolean; reason?: string };
}

/** Fetches the messages of a conversation, as initial messages for `useChat`. `resumeStream` adds a running answer. */
export async function messagesOf(conversations: Conversations, conversation: string): Promise<UIMessage[]> {
  const messages: UIMessage[] = [];
  for await (const item of conversations.items.all(conversation, { order: "asc", limit: 100 })) add(messages, item);
  return messages;
}

function add(messages: UIMessage[], item: ConversationItem): void {
  if (item.type === "message" && item.role !== "assistant") {
    if (item.role !== "user") return;
    const text = item.content.map((part) => part.text).join("");
    messages.push({ id: item.id, role: "user", parts: [{ type: "text", text }] });
    return;
  }
  let answer = messages.at(-1);
  if (answer?.role !== "assistant") {
    answer = { id: item.id, role: "assistant", parts: [] };
    messages.push(answer);
  }
  if (item.type === "function_call_output") return finish(answer.parts, item as unknown as FunctionCallOutput);
  const part = partOf(item);
  if (part) answer.parts.push(part);
}

function partOf(item: ConversationItem): Part | undefined {
  if (item.type === "message")
    return { type: "text", text: item.content.map((part) => part.text).join(""), state: "done" };
  if (item.type === "reasoning") {
    return { type: "reasoning", text: item.summary.map(({ text }) => text).join("\n\n"), state: "done" };
  }
  if (item.type !== "function_call") return undefined;
  const input = parsed(item.arguments);
  return { type: `tool-${item.name}`, toolCallId: item.call_id, state: "input-available", input } as Part;
}

function finish(parts: Part[], { call_id, output }: FunctionCallOutput): void {
  const index = parts.findIndex((part) => "toolCallId" in part && part.toolCallId === call_id);
  if (index >= 0) parts[index] = { ...parts[index], state: "output-available", output: resultValue(output) } as Part;
}

/** Fetches the part of the running turn that precedes the running response: calls and their results. */
export async function turnSoFar(
  { items }: Conversations,
  conversation: string,
): Promise<{ messageId: string; chunks: Chunk[] } | undefined> {
  const said: ConversationItem[] = [];
  for await (const item of items.all(conversation, { limit: 100 })) {
    if (item.type === "message" && item.role === "user") break;
    said.unshift(item);
  }
  const [first] = said;
  return (
    first && {
      messageId: first.id,
      chunks: [{ type: "start-step" }, ...said.flatMap(chunksOfItem), { type: "finish-step" }],
    }
  );
}

function chunksOfItem(item: ConversationItem): Chunk[] {
  const { id } = item;
  if (item.type === "function_call") return [callChunk(item)];
  if (item.type === "message") {
    const delta = item.content.map((part) => part.text).join("");
    return [
      { type: "text-start", id },
      { type: "text-delta", id, delta },
      { type: "text-end", id },
    ];
  }
  if (item.type === "reasoning") {
    const delta = item.summary.map(({ text }) => text).join("\n\n");
    return [
      { type: "reasoning-start", id },
      { type: "reasoning-delta", id, delta },
      { type: "reasoning-end", id },
    ];
  }
  if (item.type !== "function_call_output") return [];
  const { call_id: toolCallId, output } = item as unknown as FunctionCallOutput;
  return [{ type: "tool-output-available", toolCallId, output: resultValue(output) }];
}

function resultValue(output: FunctionCallOutput["output"]): unknown {
  const text = typeof output === "string" ? output : JSON.stringify(output);
  return parsed(text) ?? text;
}

/** Joins the text of a message. */
export function textOf({ parts }: UIMessage): string {
  return parts.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** Returns the calls of an answer's last step, whose results have not been sent. */
export function openCalls({ parts }: UIMessage): ToolPart[] {
  const step = parts.map(({ type }) => type).lastIndexOf("step-start");
  return parts.slice(step + 1).flatMap((part) => {
    if (!("toolCallId" in part)) return [];
    const toolName = part.type === "dynamic-tool" ? part.toolName : part.type.replace(/^tool-/, "");
    return [{ ...part, toolName } as unknown as ToolPart];
  });
}

/** Returns the result of a call for the model; undefined while there is none. */
export function resultOf(call: ToolPart): InputItem | undefined {
  const { state, errorText, approval } = call;
  if (state === "output-available") return outputItem(call.toolCallId, call.output);
  if (state === "output-error") return outputItem(call.toolCallId, { error: errorText ?? "The call failed." });
  const isDenied = state === "output-denied" || (state === "approval-responded" && approval?.approved === false);
  return isDenied ? outputItem(call.toolCallId, { error: denial(approval?.reason) }) : undefined;
}

export function outputItem(call_id: string, output: unknown): FunctionCallOutput {
  const text = typeof output === "string" ? output : (JSON.stringify(output) ?? "null");
  return { type: "function_call_output", call_id, output: text };
}

function denial(reason: string | undefined): string {
  return reason === undefined ? "The user did not allow this call." : `The user did not allow this call: ${reason}`;
}

/** Returns the input of a call; an empty object if the input is not an object. */
export function argumentsOf(call: ToolPart): object {
  return isRecord(call.input) ? call.input : {};
}
