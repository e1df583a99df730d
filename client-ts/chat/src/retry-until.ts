import { ApiError, CancelledError, ConnectionError } from "caudal-client";

const RETRY_MS = 1000;

/**
 * Repeats an HTTP request that fails with `ConnectionError` or an error with a retry time, as long as `isWanted` returns true.
 * The client itself resends only requests on its connection.
 */
export async function retryUntil<T>(
  action: () => Promise<T>,
  isWanted: () => boolean,
  onRetry: (retryAt: number) => void,
): Promise<T> {
  for (;;) {
    if (!isWanted()) throw new CancelledError("It is not wanted any more.");
    try {
      return await action();
    } catch (error) {
      const wait = waitAfter(error);
      if (wait === undefined) throw error;
      if (error instanceof ApiError) onRetry(Date.now() + wait);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

function waitAfter(error: unknown): number | undefined {
  if (error instanceof ConnectionError) return RETRY_MS;
  return error instanceof ApiError ? error.retryAfterMs : undefined;
}
