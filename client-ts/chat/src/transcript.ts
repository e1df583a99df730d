/** Converts the items of a conversation to turns, and turns to items. */

import type { ConversationItem, InputItem, InputMessage } from "caudal-client";
import { t } from "./i18n.ts";
import { type Attachment, isRunning, type Turn } from "./turn.ts";

/** The message that asks for the rest of a cut answer. It is part of the conversation, but the page does not show it. */
export const CONTINUE =
  "Your last answer was cut off. Continue it exactly where it ended. Repeat nothing of it, and add no introduction.";

/** Returns the message of the user that asks for the turn. */
export function messageOf({ prompt, attachments = [] }: Pick<Turn, "prompt" | "attachments">): InputMessage {
  if (attachments.length === 0) return { role: "user", content: prompt };
  const files = attachments.map(
    ({ name, text }) => `\n\n<file name="${name.replace(/["<>\n]/g, "_")}">\n${text}\n</file>`,
  );
  return { role: "user", content: [prompt, ...files].map((text) => ({ type: "input_text", text })) };
}

const FILES = /(?:\n\n<file name="[^"\n]*">\n[\s\S]*?\n<\/file>)+$/;
const FILE = /\n\n<file name="([^"\n]*)">\n([\s\S]*?)\n<\/file>(?=\n\n<file name="|$)/g;

/** Groups items into turns. A turn is a message of the user and all items up to the next one. */
export function turnsOf(items: readonly ConversationItem[]): Turn[] {
  return groupsOf(items).turns;
}

/** Returns the items of each turn. */
export function itemsByTurn(items: readonly ConversationItem[]): ConversationItem[][] {
  return groupsOf(items).groups;
}

function groupsOf(items: readonly ConversationItem[]): { turns: Turn[]; groups: ConversationItem[][] } {
  const turns: Turn[] = [];
  const groups: ConversationItem[][] = [];
  for (const item of items) {
    if (item.type === "message" && item.role === "user") {
      turns.push({ key: item.id, ...questionOf(item.content), status: "waiting", answer: "" });
      groups.push([item]);
      continue;
    }
    const turn = turns.at(-1);
    if (!turn) continue;
    turns[turns.length - 1] = { ...turn, ...withItem(turn, item) };
    groups.at(-1)?.push(item);
  }
  // Only the last turn can still be waiting for an answer.
  const shown = turns.map((turn, index) =>
    index < turns.length - 1 && isRunning(turn) ? { ...turn, ...unanswered() } : turn,
  );
  return { turns: shown, groups };
}

function unanswered(): Pick<Turn, "status" | "problem"> {
  return { status: "failed", problem: { message: t("unanswered"), canRetry: false } };
}

/**
 * Splits a message into prompt and attachments. The server joins the parts of a message, so attachments are parsed from its text.
 */
function questionOf(content: readonly { text: string }[]): Pick<Turn, "prompt" | "attachments"> {
  const text = content.map((part) => part.text).join("");
  const [files] = text.endsWith("\n</file>") ? (FILES.exec(text) ?? []) : [];
  if (files === undefined) return { prompt: text };
  const attachments = [...files.matchAll(FILE)].map(([, name = "", text = ""]): Attachment => ({ name, text }));
  return { prompt: text.slice(0, -files.length), attachments };
}

function withItem(turn: Turn, item: ConversationItem): Partial<Turn> {
  const status = "status" in item && item.status === "incomplete" ? "stopped" : "done";
  if (item.type === "message" && item.role === "assistant") {
    const text = item.content.map((part) => part.text).join("");
    return {
      status,
      answer: turn.continuation ? joined(turn.answer, text) : paragraphs(turn.answer, text),
      ...(item.metadata?.["where"] === "browser" ? { where: "browser" } : {}),
      continuation: undefined,
    };
  }
  if (item.type === "message" && item.role === "developer") {
    return item.content.some(({ text }) => text === CONTINUE) ? { continuation: item.id } : {};
  }
  if (item.type === "reasoning") {
    return { status, thinking: { text: item.summary.map(({ text }) => text).join("\n\n"), over: true } };
  }
  if (item.type === "function_call") {
    const call = { id: item.call_id, name: item.name, arguments: item.arguments, done: true };
    return { status, calls: [...(turn.calls ?? []), call] };
  }
  if (item.type === "function_call_output" && "output" in item) {
    const output = typeof item.output === "string" ? item.output : JSON.stringify(item.output);
    return { calls: (turn.calls ?? []).map((call) => (call.id === item.call_id ? { ...call, output } : call)) };
  }
  return {};
}

function paragraphs(before: string, text: string): string {
  return before === "" ? text : `${before}\n\n${text}`;
}

/** Joins a cut answer and its continuation. */
export function joined(before: string, text: string): string {
  const needsSpace = /\w[.,;:!?)]?$/.test(before) && /^\w/.test(text);
  return needsSpace ? `${before} ${text}` : before + text;
}

/**
 * Returns the server's turns with the state that only this page has (times, figures, problems), then the page's own turns that
 * are not in the conversation: refused ones, and those that have not begun. Turns of `settled` had ended before the request to
 * the server, so the server lacks one of them only if a user deleted it.
 */
export function merged(
  theirs: readonly Turn[],
  ours: readonly Turn[],
  settled: ReadonlySet<string> = new Set(),
): Turn[] {
  const turns = theirs.map((turn, index) => {
    const known = ours[index];
    if (known?.prompt !== turn.prompt) return turn;
    if (known.awaitsJoin) return known;
    const isSame = known.answer === turn.answer || isRunning(turn) || isRunning(known);
    if (!isSame) return { ...turn, key: known.key };
    const isNewer = isRunning(known) && !isRunning(turn) && known.continuation === undefined;
    return isNewer ? { ...known, ...turn, key: known.key } : known;
  });
  turns.push(...ours.slice(theirs.length).filter(({ key, awaitsJoin }) => awaitsJoin || !settled.has(key)));
  // Another client may have asked meanwhile; turns that are not on the server come after its turns.
  const shown = new Set(turns.map(({ key }) => key));
  turns.push(...ours.filter(({ key, awaitsJoin }) => awaitsJoin && !shown.has(key)));
  const pending = ours.at(-1);
  if (pending && isRunning(pending) && !turns.some(({ key }) => key === pending.key)) turns.push(pending);
  return turns;
}

/** Returns the turns as items, for a server that does not have them. */
export function itemsOf(turns: readonly Turn[]): InputMessage[] {
  return turns
    .filter((turn) => turn.answer !== "" && !isRunning(turn))
    .flatMap((turn): InputMessage[] => [messageOf(turn), { role: "assistant", content: turn.answer }]);
}

/** Returns the items that an export has: those of the conversation without reasoning. */
export function portable(items: readonly ConversationItem[]): InputItem[] {
  return items.filter((item) => item.type !== "reasoning") as unknown as InputItem[];
}
