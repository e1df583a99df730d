/** Calls a listener of the caller. What the listener throws is reported as uncaught, and breaks nothing here. */
export function tell<T>(listener: ((news: T) => void) | undefined, news: T): void {
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
