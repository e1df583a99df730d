/** A runtime for assistant-ui: `<AssistantRuntimeProvider runtime={useCaudalRuntime(id)}>`. Needs a `<CaudalProvider>` above. */

import {
  type AppendMessage,
  type AssistantRuntime,
  createMessageQueue,
  type ThreadMessageLike,
  useExternalStoreRuntime,
} from "@assistant-ui/react";
import { useEffect, useReducer, useRef, useState, useSyncExternalStore } from "react";
import { type UseConversationOptions, useClient } from "../react/index.ts";
import type { AnswerPart } from "../ui/answer.ts";
import { isRunning, type Turn } from "../ui/turns.ts";
import { Branches, NOTHING, openCalls, type ThreadEntry } from "./branches.ts";

/**
 * Returns the runtime of a conversation, or of a new one without `id`: new messages, reload, edit, cancel, branches,
 * tool results, older messages, and a queue for messages that are sent while an answer runs. An edit and a reload each
 * make a fork of the conversation, so that the old branch stays; `onConversation` receives the id of the conversation
 * that is shown.
 */
export function useCaudalRuntime(id?: string, options: UseConversationOptions = {}): AssistantRuntime {
  const client = useClient();
  const { params = {}, storage, onConversation } = options;
  const [given, setGiven] = useState({ id, client });
  const [branches, setBranches] = useState(() => new Branches(client, id, { storage }));
  const { conversation, messages } = useSyncExternalStore(branches.subscribe, branches.getSnapshot, () => NOTHING);
  const shownId = conversation.id;
  if (id !== given.id || client !== given.client) {
    setGiven({ id, client });
    if (id !== shownId || client !== given.client) setBranches(new Branches(client, id, { storage }));
  }
  const told = useRef(id);
  useEffect(() => {
    if (shownId === undefined || shownId === told.current) return;
    told.current = shownId;
    if (shownId !== id) onConversation?.(shownId);
  }, [shownId, id, onConversation]);
  const queue = useQueue(branches, params, conversation.isRunning);
  return useExternalStoreRuntime<ThreadEntry>({
    messages,
    convertMessage: threadMessage,
    isRunning: conversation.isRunning,
    isLoading: conversation.status === "loading",
    hasEarlier: conversation.hasOlder,
    onLoadEarlier: () => branches.loadOlder(),
    queue,
    onNew: async (message) => branches.send(textOf(message), params),
    onEdit: (message) => branches.edit(message.sourceId ?? "", textOf(message), params),
    onReload: (parentId) => branches.reload(parentId, params),
    onCancel: () => branches.stop(),
    onAddToolResult: ({ toolCallId, result }) => branches.answer(toolCallId, result, params),
    setMessages: (shown) => branches.show(shown.at(-1)?.id),
  });
}

type Queue = ReturnType<typeof createMessageQueue>;

/** Queues the messages that are sent while an answer runs. A queued message can be withdrawn. */
function useQueue(
  branches: Branches,
  params: NonNullable<UseConversationOptions["params"]>,
  isBusy: boolean,
): Queue["adapter"] {
  const current = useRef({ branches, params });
  useEffect(() => {
    current.current = { branches, params };
  });
  const [, repaint] = useReducer((count: number) => count + 1, 0);
  const [queue] = useState(() => {
    const made: Queue = createMessageQueue({
      run: (message) => {
        made.notifyBusy();
        current.current.branches.send(textOf(message), current.current.params);
      },
      cancel: () => void current.current.branches.stop(),
    });
    return made;
  });
  useEffect(() => queue.subscribe(repaint), [queue]);
  useEffect(() => {
    if (isBusy) queue.notifyBusy();
    else queue.notifyIdle();
  }, [queue, isBusy]);
  return queue.adapter;
}

function textOf({ content }: AppendMessage): string {
  return content.map((part) => (part.type === "text" ? part.text : "")).join("");
}

function threadMessage({ id, role, turn }: ThreadEntry): ThreadMessageLike {
  if (role === "user") return { id, role, content: turn.input };
  const { queue } = turn;
  const custom = { status: turn.status, ...(queue ? { queue } : {}) };
  return { id, role, content: turn.parts.map(contentPart), status: statusOf(turn), metadata: { custom } };
}

type ContentPart = Exclude<ThreadMessageLike["content"], string>[number];

function contentPart(part: AnswerPart): ContentPart {
  if (part.type !== "call") return part;
  const { callId: toolCallId, name: toolName, arguments: argsText, output } = part;
  return { type: "tool-call", toolCallId, toolName, argsText, ...(output === undefined ? {} : { result: output }) };
}

function statusOf(turn: Turn): NonNullable<ThreadMessageLike["status"]> {
  if (isRunning(turn)) return { type: "running" };
  if (turn.status === "failed") {
    return { type: "incomplete", reason: "error", error: turn.error?.message ?? "There is no answer to this message." };
  }
  if (openCalls(turn).length > 0) return { type: "requires-action", reason: "tool-calls" };
  if (turn.endedBy === "completed") return { type: "complete", reason: "stop" };
  if (turn.endedBy === "max_output_tokens") return { type: "incomplete", reason: "length" };
  return { type: "incomplete", reason: "cancelled" };
}
