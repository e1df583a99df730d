export interface ReconnectOptions {
  /** Upper bound of the first wait; it doubles with each attempt. Default 250. */
  initialDelayMs?: number;
  /** No wait is longer than this. Default 15 000. */
  maxDelayMs?: number;
  /** Handles fail with `ConnectionError` after this long without a connection. Default 120 000; `Infinity` never gives up. */
  giveUpAfterMs?: number;
}

/**
 * Full jitter: a wait drawn evenly from [0, bound], the bound doubling with each attempt up to the maximum. Clients that
 * lost the same server at the same moment come back spread out, and the first of them at once.
 */
export function backoffDelay(attempt: number, options: Required<ReconnectOptions>): number {
  return Math.random() * Math.min(options.maxDelayMs, options.initialDelayMs * 2 ** Math.min(attempt, 30));
}
