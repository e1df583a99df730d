/** Turns out of a conversation's items, and items out of turns. */

import type { ConversationItem, InputMessage } from "caudal-client";
import { isRunning, type Turn } from "./turn.ts";

/** A turn begins with a message of the user; what follows until the next one is its answer. */
export function turnsOf(items: readonly ConversationItem[]): Turn[] {
  const turns: Turn[] = [];
  for (const item of items) {
    if (item.type === "message" && item.role === "user") {
      const prompt = item.content.map((part) => part.text).join("");
      turns.push({ key: item.id, prompt, status: "waiting", answer: "" });
      continue;
    }
    const turn = turns.at(-1);
    if (turn) turns[turns.length - 1] = { ...turn, ...withItem(turn, item) };
  }
  // Only the last can still be waited for.
  return turns.map((turn, index) => (index < turns.length - 1 && isRunning(turn) ? { ...turn, ...UNANSWERED } : turn));
}

const UNANSWERED = { status: "failed", problem: { message: "There is no answer to this.", canRetry: false } } as const;

function withItem(turn: Turn, item: ConversationItem): Partial<Turn> {
  const status = "status" in item && item.status === "incomplete" ? "stopped" : "done";
  if (item.type === "message" && item.role === "assistant") {
    const text = item.content.map((part) => part.text).join("");
    return { status, answer: turn.answer === "" ? text : `${turn.answer}\n\n${text}` };
  }
  if (item.type === "reasoning") {
    return { status, thinking: { text: item.summary.map(({ text }) => text).join("\n\n"), over: true } };
  }
  if (item.type === "function_call") {
    const call = { id: item.call_id, name: item.name, arguments: item.arguments, done: true };
    return { status, calls: [...(turn.calls ?? []), call] };
  }
  return {};
}

/**
 * The server's turns, with what only this page knows of them (times, figures, what went wrong), and then those asked here
 * that have not come to be in the conversation: refused, or still to begin.
 */
export function merged(theirs: readonly Turn[], ours: readonly Turn[]): Turn[] {
  const turns = theirs.map((turn, index) => {
    const known = ours[index];
    if (known?.prompt !== turn.prompt) return turn;
    const isSame = known.answer === turn.answer || isRunning(turn) || isRunning(known);
    if (!isSame) return { ...turn, key: known.key };
    const isNewer = isRunning(known) && !isRunning(turn);
    return isNewer ? { ...known, ...turn, key: known.key } : known;
  });
  turns.push(...ours.slice(theirs.length));
  const pending = ours.at(-1);
  if (pending && isRunning(pending) && !turns.some(({ key }) => key === pending.key)) turns.push(pending);
  return turns;
}

/** What has been said, for a server that does not know it. */
export function itemsOf(turns: readonly Turn[]): InputMessage[] {
  return turns
    .filter((turn) => turn.answer !== "" && !isRunning(turn))
    .flatMap((turn): InputMessage[] => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.answer },
    ]);
}
