/** Has the browser keep the page, so that it opens without the server. Every file of it, once the page has been shown. */
export function keepOffline(): void {
  if (!("serviceWorker" in navigator) || !isSecureContext) return;
  addEventListener("load", () => {
    const keep = async (): Promise<void> => {
      await navigator.serviceWorker.register("./sw.js");
      await navigator.serviceWorker.ready;
      // What was loaded before the worker was there, and the parts that are loaded when they are used.
      const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
      await Promise.all(loaded.filter((name) => name.includes("/assets/")).map((name) => fetch(name)));
    };
    keep().catch(() => undefined);
  });
}
