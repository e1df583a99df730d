/**
 * Branches of a conversation. An edit forks the conversation before a turn. The fork's metadata has the id of its `parent`, the
 * id of the family's `root`, and the index (`at`) of the fork's first own turn.
 */

import type { ChatSummary } from "./chat-summary.ts";

export interface Variants {
  /** The ids of the conversations that have a version of the turn, oldest first. */
  readonly ids: readonly string[];
  /** The index in `ids` of the version that is shown. */
  readonly index: number;
}

export function rootOf({ id, metadata }: Pick<ChatSummary, "id" | "metadata">): string {
  return metadata["root"] ?? id;
}

/** Returns the versions of a conversation's turn, if there are several. */
export function variantsOf(chats: readonly ChatSummary[], id: string, turn: number): Variants | undefined {
  const byId = new Map(chats.map((chat) => [chat.id, chat]));
  const current = byId.get(id);
  if (!current) return undefined;
  const root = rootOf(current);
  const owner = ownerOf(byId, current, turn);
  const base = baseOf(byId, owner, turn);
  const forks = chats
    .filter((chat) => rootOf(chat) === root && atOf(chat) === turn && baseOf(byId, chat, turn) === base)
    .sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
  const ids = [base, ...forks.filter((chat) => chat !== base)].map((chat) => chat.id);
  return ids.length > 1 ? { ids, index: ids.indexOf(owner.id) } : undefined;
}

type Chats = ReadonlyMap<string, ChatSummary>;

/** Returns the conversation in which the turn was asked. */
function ownerOf(chats: Chats, chat: ChatSummary, turn: number): ChatSummary {
  let owner = chat;
  for (let parent = parentOf(chats, owner); parent && turn < atOf(owner); parent = parentOf(chats, owner))
    owner = parent;
  return owner;
}

/** Returns the conversation in which the first version of the turn was asked. */
function baseOf(chats: Chats, chat: ChatSummary, turn: number): ChatSummary {
  let base = chat;
  for (let parent = parentOf(chats, base); parent && turn <= atOf(base); parent = parentOf(chats, base)) base = parent;
  return base;
}

function parentOf(chats: Chats, { id, metadata }: ChatSummary): ChatSummary | undefined {
  const parent = metadata["parent"];
  return parent === undefined || parent === id ? undefined : chats.get(parent);
}

function atOf({ metadata }: ChatSummary): number {
  return metadata["parent"] === undefined ? -1 : Number(metadata["at"] ?? -1);
}
