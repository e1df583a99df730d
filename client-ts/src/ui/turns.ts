/** Turns of a conversation: the user's input, the model's answer and the answer's status. */

import type { QueuePosition } from "../events.ts";
import type { InputItem } from "../items.ts";
import type { ConversationItem, Input } from "../wire.ts";
import { type AnswerPart, partOf, withOutputs } from "./answer.ts";

export type TurnStatus =
  /** Not begun: on its way to the server, or waiting there; `queue` has its place. */
  | "queued"
  /** Begun, without text or a call so far. */
  | "thinking"
  | "streaming"
  /** The connection or the replica is lost; the turn goes on without action of the user. */
  | "recovering"
  /** Ended; `endedBy` has the reason. */
  | "ended"
  /** Ended with `error`. */
  | "failed";

export interface Turn {
  /** Stable for the life of the page, so fit as a key in lists. */
  readonly key: string;
  /** The text of the user's input. */
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

/** Joins the text of an input's messages. */
export function inputText(input: Input): string {
  if (typeof input === "string") return input;
  return input.map((item) => ("role" in item ? contentText(item.content) : "")).join("");
}

function contentText(content: string | readonly object[] | null | undefined): string {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => ("text" in part ? String(part.text) : "")).join("");
}

/** Groups items into turns: a turn is a message of the user and all items up to the next one. */
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
  // Only the last turn can still be waiting for an answer.
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

/**
 * Returns the server's turns with the state that only this page has, then the local turns that the server does not have
 * yet.
 */
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
