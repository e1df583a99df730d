/**
 * Calls a listener of the caller. Reports an error that the listener throws as uncaught instead of throwing it here.
 */
export function notify<T>(listener: ((news: T) => void) | undefined, news: T): void {
  try {
    listener?.(news);
  } catch (error) {
    (globalThis.reportError ?? throwLater)(error);
  }
}

function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
