/** Calls back when the page may have slept: shown again, restored from the back/forward cache, thawed, or online again. */
export function onWake(listener: () => void): () => void {
  const { document: page } = globalThis as { document?: Document };
  const woken = (): void => {
    if (page?.visibilityState !== "hidden") listener();
  };
  const stop = new AbortController();
  const { signal } = stop;
  // Node has neither a page nor these events.
  for (const type of ["online", "pageshow"]) globalThis.addEventListener?.(type, woken, { signal });
  for (const type of ["visibilitychange", "resume"]) page?.addEventListener(type, woken, { signal });
  return () => stop.abort();
}
