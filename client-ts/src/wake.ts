/** Calls back when the page may have slept: shown again, restored from the back/forward cache, thawed, or online again. */
export function onWake(listener: () => void): () => void {
  const { document: page } = globalThis as { document?: Document };
  const stop = new AbortController();
  const woken = (): void => {
    if (page?.visibilityState !== "hidden") listener();
  };
  // Events of the document pass the window first. Node has neither of them.
  const options = { capture: true, signal: stop.signal };
  for (const type of ["online", "pageshow", "visibilitychange", "resume"]) {
    globalThis.addEventListener?.(type, woken, options);
  }
  return () => stop.abort();
}
