/** Timers with limits. */

import { ConnectionError } from "./errors.ts";

export type Timer = ReturnType<typeof setTimeout>;

/** The longest delay of a timer: with a longer one `setTimeout` fires at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** Calls `listener` after `ms`, but after 24 days at the latest. */
export function after(ms: number, listener: () => void): Timer {
  return setTimeout(listener, Math.min(ms, LONGEST_MS));
}

/** Runs `work`. If it takes longer than `ms`, aborts it and rejects with `ConnectionError`. */
export async function within<T>(ms: number, work: (signal: AbortSignal) => T | Promise<T>): Promise<T> {
  const limit = new AbortController();
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = after(ms, () => {
      reject(new ConnectionError("There was no answer in time."));
      limit.abort();
    });
  });
  try {
    return await Promise.race([late, work(limit.signal)]);
  } finally {
    clearTimeout(timer);
  }
}
