export interface ReconnectOptions {
  /** Upper bound of the first wait; the bound doubles with each attempt. Default 250. */
  initialDelayMs?: number;
  /** Upper bound of every wait. Default 15 000. */
  maxDelayMs?: number;
  /** A handle fails with `ConnectionError` after this long without a connection. Default 120 000; `Infinity`: never. */
  giveUpAfterMs?: number;
}

/**
 * Returns a wait with full jitter: drawn evenly from [0, bound], and the bound doubles with each attempt up to the
 * maximum. Clients that lost the same server at the same moment reconnect spread out, the first of them at once.
 */
export function backoffDelay(attempt: number, options: Required<ReconnectOptions>): number {
  return Math.random() * Math.min(options.maxDelayMs, options.initialDelayMs * 2 ** Math.min(attempt, 30));
}
