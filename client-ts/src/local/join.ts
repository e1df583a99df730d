/** Appends the turns of this browser to the server's conversations, in order and each once. */

import type { CaudalClient } from "../client.ts";
import { NotFoundError } from "../errors.ts";
import type { ConversationItem, InputItem } from "../index.ts";
import { isLocalConversation, itemsOf, type Journal, type LocalRun } from "./journal.ts";

/** The number of items that one request may have. */
const MOST_ITEMS = 20;

export async function join(client: CaudalClient, journal: Journal): Promise<readonly LocalRun[]> {
  const joined: LocalRun[] = [];
  const names = new Map<string, string>();
  /** Conversations with a turn that has not ended; their later turns wait for it. */
  const blocked = new Set<string>();
  for (const run of await journal.all()) {
    const { conversation } = run;
    if (conversation === undefined) continue;
    if (run.status === "running") blocked.add(conversation);
    if (blocked.has(conversation)) continue;
    const known = names.get(conversation) ?? (isLocalConversation(conversation) ? undefined : conversation);
    const isJoined = known !== undefined && (await joinOne(client, known, run));
    // The server has no such conversation, or it was deleted.
    const id = isJoined ? known : await moved(client, journal, conversation);
    if (!isJoined) await joinOne(client, id, run);
    names.set(conversation, id);
    await journal.forget(run);
    joined.push(id === conversation ? run : { ...run, conversation: id, localConversation: conversation });
  }
  return joined;
}

/**
 * Creates a conversation on the server that begins with the history of its first local turn, and stores its id in every
 * run of the conversation.
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

/** Deletes a turn that has not joined. */
export async function discard(journal: Journal, id: string): Promise<void> {
  const runs = await journal.all();
  const run = runs.find((run) => run.id === id);
  if (!run) return;
  await journal.forget(run);
  // The next turn becomes the first of the conversation, so it takes over the history.
  const [first, next] = runs.filter(({ conversation }) => conversation === run.conversation);
  if (first?.id === id && next) await journal.save({ ...next, history: run.history });
}

/** Appends one turn. Returns `false` if the server does not have the conversation. */
async function joinOne(
  { conversations, responses }: CaudalClient,
  conversation: string,
  run: LocalRun,
): Promise<boolean> {
  const items = [...itemsOf(run.params), ...(run.output as readonly InputItem[])].filter(hasContent);
  const stored: ConversationItem[] = [];
  try {
    for await (const item of conversations.items.all(conversation)) stored.push(item);
  } catch (error) {
    if (error instanceof NotFoundError) return false;
    throw error;
  }
  const there = new Set(stored.flatMap((item) => ("metadata" in item ? [item.metadata?.["run"]] : [])));
  for (let at = 0; at < items.length; at += MOST_ITEMS) {
    // Items with this mark were appended by a request whose answer was lost.
    const mark = at === 0 ? run.id : `${run.id}.${at}`;
    if (there.has(mark)) continue;
    const metadata = { where: "browser", run: mark };
    const marked = items.slice(at, at + MOST_ITEMS).map((item) => ("role" in item ? { ...item, metadata } : item));
    await conversations.items.create(conversation, marked);
  }
  if (run.replaces === undefined) return true;
  await responses.cancel(run.replaces).catch(ifGone);
  // The ids of a response's items contain the response's id.
  const part = run.replaces.replace(/^resp_/, "");
  for await (const { id } of conversations.items.all(conversation)) {
    if (id.includes(part)) await conversations.items.delete(conversation, id).catch(ifGone);
  }
  return true;
}

function hasContent(item: InputItem): boolean {
  return !("role" in item) || item.content !== "";
}

function ifGone(error: unknown): void {
  if (!(error instanceof NotFoundError)) throw error;
}
