/**
 * Calls `listener` when the page may have slept: it is shown, restored from the back/forward cache, thawed, or online
 * again. The returned function stops that.
 */
export function onWake(listener: () => void): () => void {
  const { document: page } = globalThis as { document?: Document };
  const stop = new AbortController();
  const woken = (): void => {
    if (page?.visibilityState !== "hidden") listener();
  };
  // The window captures the document's events, too. Node has neither window nor document.
  const options = { capture: true, signal: stop.signal };
  for (const type of ["online", "pageshow", "visibilitychange", "resume"]) {
    globalThis.addEventListener?.(type, woken, options);
  }
  return () => stop.abort();
}
