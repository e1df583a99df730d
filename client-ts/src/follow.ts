/** Follows the turns of a conversation. Loaded when used. */

import { DetachedError, NotFoundError } from "./errors.ts";
import { EventLog } from "./event-log.ts";
import type { ResponseHandle } from "./handle.ts";
import type { Link } from "./link.ts";
import type { Responses } from "./responses.ts";

export async function* follow(
  link: Link,
  responses: Responses,
  conversation: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<ResponseHandle, void, undefined> {
  // Each entry is the id of a response to follow, or the conversation to look up on a new connection.
  const turns = new EventLog<string | { conversation: string }>();
  const stop = link.watch({
    connected: () => turns.append({ conversation }),
    ended: (refusal) => turns.end(refusal),
    turn: ({ conversation: where, response_id }) => {
      if (where === conversation && typeof response_id === "string") turns.append(response_id);
    },
  });
  let pending: AbortController | undefined;
  const leave = (): void => {
    turns.end();
    pending?.abort();
  };
  signal?.addEventListener("abort", leave);
  if (signal?.aborted) leave();
  const seen = new Set<string>();
  try {
    for await (const turn of turns.follow()) {
      if (typeof turn === "string" && (seen.has(turn) || link.deliveries.runsOf(turn) > 0)) continue;
      const asking = new AbortController();
      pending = asking;
      const handle = responses.resume(turn, { signal: asking.signal });
      const id = await handle.id.catch(unlessGone);
      pending = undefined;
      if (id === undefined || seen.has(id) || link.deliveries.runsOf(id) > 1) {
        asking.abort();
        continue;
      }
      seen.add(id);
      yield handle;
    }
  } finally {
    stop();
    signal?.removeEventListener("abort", leave);
  }
}

function unlessGone(error: unknown): undefined {
  const isIdle = error instanceof NotFoundError && error.code === "response_not_found";
  if (isIdle || error instanceof DetachedError) return undefined;
  throw error;
}
