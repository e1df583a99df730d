/** Timers with limits. */

import { ConnectionError } from "./errors.ts";

export type Timer = ReturnType<typeof setTimeout>;

/** A timer that is set to more fires at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** Calls back after that time, or after 24 days if that is less. */
export function after(ms: number, listener: () => void): Timer {
  return setTimeout(listener, Math.min(ms, LONGEST_MS));
}

/** Rejects with `ConnectionError`, and aborts the work, when the work takes longer than that. */
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
