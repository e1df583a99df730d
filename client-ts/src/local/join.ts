/** Brings what was said in this browser into the conversations of the server: in order, each turn once. */

import type { CaudalClient } from "../client.ts";
import { NotFoundError } from "../errors.ts";
import type { ConversationItem, InputItem } from "../index.ts";
import { isLocalConversation, itemsOf, type Journal, type LocalRun } from "./journal.ts";

/** Items that one request may bring. */
const MOST_ITEMS = 20;

export async function join(client: CaudalClient, journal: Journal): Promise<readonly LocalRun[]> {
  const joined: LocalRun[] = [];
  const names = new Map<string, string>();
  /** Turns behind one that has not ended wait for that one. */
  const blocked = new Set<string>();
  for (const run of await journal.all()) {
    const { conversation } = run;
    if (conversation === undefined) continue;
    if (run.status === "running") blocked.add(conversation);
    if (blocked.has(conversation)) continue;
    const known = names.get(conversation) ?? (isLocalConversation(conversation) ? undefined : conversation);
    const isJoined = known !== undefined && (await joinOne(client, known, run));
    // The server has no such conversation, or none any more.
    const id = isJoined ? known : await moved(client, journal, conversation);
    if (!isJoined) await joinOne(client, id, run);
    names.set(conversation, id);
    await journal.forget(run);
    joined.push(id === conversation ? run : { ...run, conversation: id, localConversation: conversation });
  }
  return joined;
}

/**
 * Makes a conversation on the server, which begins with what was said before the first of its turns, and notes its id with
 * every run that belongs to the conversation.
 */
async function moved(client: CaudalClient, journal: Journal, from: string): Promise<string> {
  const runs = (await journal.all()).filter((run) => run.conversation === from);
  const before = runs[0]?.history ?? [];
  const { conversations } = client;
  const { id } = await conversations.create({ items: before.slice(0, MOST_ITEMS), metadata: { where: "browser" } });
  for (let at = MOST_ITEMS; at < before.length; at += MOST_ITEMS) {
    await conversations.items.create(id, before.slice(at, at + MOST_ITEMS));
  }
  for (const run of runs) await journal.save({ ...run, conversation: id, localConversation: from });
  return id;
}

/** Takes a turn out that has not joined. */
export async function discard(journal: Journal, id: string): Promise<void> {
  const runs = await journal.all();
  const run = runs.find((run) => run.id === id);
  if (!run) return;
  await journal.forget(run);
  // A conversation begins with the history of its first turn.
  const [first, next] = runs.filter(({ conversation }) => conversation === run.conversation);
  if (first?.id === id && next) await journal.save({ ...next, history: run.history });
}

/** Returns whether the server has the conversation. */
async function joinOne(
  { conversations, responses }: CaudalClient,
  conversation: string,
  run: LocalRun,
): Promise<boolean> {
  const items = [...itemsOf(run.params), ...(run.output as readonly InputItem[])].filter(isSaid);
  const stored: ConversationItem[] = [];
  try {
    for await (const item of conversations.items.all(conversation)) stored.push(item);
  } catch (error) {
    if (error instanceof NotFoundError) return false;
    throw error;
  }
  const there = new Set(stored.flatMap((item) => ("metadata" in item ? [item.metadata?.["run"]] : [])));
  for (let at = 0; at < items.length; at += MOST_ITEMS) {
    // A request whose answer was lost has left its items.
    const mark = at === 0 ? run.id : `${run.id}.${at}`;
    if (there.has(mark)) continue;
    const metadata = { where: "browser", run: mark };
    const marked = items.slice(at, at + MOST_ITEMS).map((item) => ("role" in item ? { ...item, metadata } : item));
    await conversations.items.create(conversation, marked);
  }
  if (run.replaces === undefined) return true;
  await responses.cancel(run.replaces).catch(ifGone);
  // Ids of a response's items contain the response's.
  const part = run.replaces.replace(/^resp_/, "");
  for await (const { id } of conversations.items.all(conversation)) {
    if (id.includes(part)) await conversations.items.delete(conversation, id).catch(ifGone);
  }
  return true;
}

function isSaid(item: InputItem): boolean {
  return !("role" in item) || item.content !== "";
}

function ifGone(error: unknown): void {
  if (!(error instanceof NotFoundError)) throw error;
}
