/** Has the browser store the page, so that it opens without the server. Every file of it, once the page has been shown. */
export function keepOffline(): void {
  if (!("serviceWorker" in navigator) || !isSecureContext) return;
  addEventListener("load", () => {
    const keep = async (): Promise<void> => {
      await navigator.serviceWorker.register("./sw.js");
      await controlled();
      await cacheAssets();
    };
    keep().catch(() => undefined);
  });
}

/** Resolves when a worker serves this page. */
async function controlled(): Promise<void> {
  const { serviceWorker } = navigator;
  if (serviceWorker.controller) return;
  await new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
}

/** Fetches the page's files once more, through the worker that stores them: those that were loaded so far, and these. */
export async function cacheAssets(more: readonly string[] = []): Promise<void> {
  if (!("serviceWorker" in navigator) || !navigator.serviceWorker.controller) return;
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  const assets = new Set([...loaded.filter((name) => name.includes("/assets/")), ...more]);
  await Promise.all([...assets].map((name) => fetch(name)));
}
