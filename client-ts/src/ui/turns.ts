/** Turns of a conversation: what a user said and what the model answered, with how far that has come. */

import type { QueuePosition } from "../events.ts";
import type { InputItem } from "../items.ts";
import type { ConversationItem, Input } from "../wire.ts";
import { type AnswerPart, partOf, withOutputs } from "./answer.ts";

export type TurnStatus =
  /** Not begun: on its way to the server, or waiting there; `queue` has the place. */
  | "queued"
  /** Begun, without text so far. */
  | "thinking"
  | "streaming"
  /** The connection or the replica is lost; the turn goes on by itself. */
  | "recovering"
  /** Over; `endedBy` says how. */
  | "ended"
  /** Over, with `error`. */
  | "failed";

export interface Turn {
  /** Stable for the life of the page: a key for lists. */
  readonly key: string;
  /** What the user said. */
  readonly input: string;
  readonly parts: readonly AnswerPart[];
  readonly status: TurnStatus;
  readonly queue?: QueuePosition | undefined;
  readonly responseId?: string | undefined;
  /** `completed`, or the reason of an incomplete response, such as `cancelled` or `max_output_tokens`. */
  readonly endedBy?: string | undefined;
  readonly error?: Error | undefined;
  /** Ids of the conversation's items that make up the turn, as far as known. */
  readonly itemIds: readonly string[];
}

export function isRunning({ status }: Turn): boolean {
  return status !== "ended" && status !== "failed";
}

/** The text of an input's messages. */
export function inputText(input: Input): string {
  if (typeof input === "string") return input;
  return input.map((item) => ("role" in item ? contentText(item.content) : "")).join("");
}

function contentText(content: string | readonly object[] | null | undefined): string {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => ("text" in part ? String(part.text) : "")).join("");
}

/** A turn begins with a message of the user and has all that follows up to the next one. */
export function turnsOf(items: readonly ConversationItem[]): Turn[] {
  const turns: Turn[] = [];
  for (const item of items) {
    if (item.type === "message" && item.role === "user") {
      const input = item.content.map(({ text }) => text).join("");
      turns.push({ key: item.id, input, parts: [], status: "queued", itemIds: [item.id] });
      continue;
    }
    const turn = turns.pop() ?? { key: item.id, input: "", parts: [], status: "queued", itemIds: [] };
    turns.push(withItem(turn, item));
  }
  // Only the last one can still be waiting for an answer.
  const last = turns.at(-1);
  return turns.map((turn) => (turn !== last && isRunning(turn) ? { ...turn, status: "failed" } : turn));
}

function withItem(turn: Turn, item: ConversationItem): Turn {
  const part = partOf(item);
  const parts = part ? [...turn.parts, part] : withOutputs(turn.parts, [item as InputItem]);
  const wasCut = "status" in item && item.status === "incomplete";
  const itemIds = [...turn.itemIds, item.id];
  return { ...turn, parts, itemIds, status: "ended", endedBy: wasCut ? "incomplete" : "completed" };
}

/** The server's turns with what only this page knows of them, then those that are not in the conversation yet. */
export function merged(server: readonly Turn[], local: readonly Turn[]): Turn[] {
  const rest = new Set(local);
  const turns = server.map((theirs) => {
    const ours = [...rest].find((turn) => isSame(turn, theirs));
    if (!ours) return theirs;
    rest.delete(ours);
    const { key, itemIds } = ours;
    if (isRunning(ours)) return { ...ours, itemIds: theirs.itemIds };
    if (theirs.parts.length === 0) return { ...ours, itemIds: [...theirs.itemIds, ...itemIds] };
    return { ...theirs, key, responseId: ours.responseId, endedBy: ours.endedBy ?? theirs.endedBy };
  });
  const isHere = (turn: Turn): boolean => isRunning(turn) || (turn.status === "failed" && turn.itemIds.length === 0);
  return [...turns, ...[...rest].filter(isHere)];
}

function isSame(ours: Turn, theirs: Turn): boolean {
  if (ours.itemIds.length > 0) return theirs.itemIds.some((id) => ours.itemIds.includes(id));
  return ours.status !== "ended" && theirs.parts.length === 0 && ours.input === theirs.input;
}
