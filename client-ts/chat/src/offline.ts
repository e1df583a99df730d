/** Has the browser keep the page, so that it opens without the server. Every file of it, once the page has been shown. */
export function keepOffline(): void {
  if (!("serviceWorker" in navigator) || !isSecureContext) return;
  addEventListener("load", () => {
    const keep = async (): Promise<void> => {
      await navigator.serviceWorker.register("./sw.js");
      await navigator.serviceWorker.ready;
      // Caches the files that were loaded before the worker ran, and the parts that load on demand.
      const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
      await Promise.all(loaded.filter((name) => name.includes("/assets/")).map((name) => fetch(name)));
    };
    keep().catch(() => undefined);
  });
}
