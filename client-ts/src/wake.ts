/** Calls back when the page may have slept: shown again, restored from the back/forward cache, thawed, or online again. */
export function onWake(listener: () => void): () => void {
  const { document: page, addEventListener } = globalThis as { document?: Document; addEventListener?: unknown };
  const scope = addEventListener === undefined ? undefined : (globalThis as unknown as EventTarget);
  const shown = (): void => {
    if (page?.visibilityState !== "hidden") listener();
  };
  const events: [EventTarget | undefined, string, () => void][] = [
    [scope, "online", listener],
    [scope, "pageshow", listener],
    [page, "visibilitychange", shown],
    [page, "resume", listener],
  ];
  for (const [target, type, act] of events) target?.addEventListener(type, act);
  return () => {
    for (const [target, type, act] of events) target?.removeEventListener(type, act);
  };
}
