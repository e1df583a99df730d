/**
 * Installs the service worker, which stores all files of the page once it has been shown, so that the page opens without the
 * server.
 */
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

/** Resolves when a service worker controls this page. */
async function controlled(): Promise<void> {
  const { serviceWorker } = navigator;
  if (serviceWorker.controller) return;
  await new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
}

/** Fetches the files that the page has loaded so far, and `more`, again through the service worker, which stores them. */
export async function cacheAssets(more: readonly string[] = []): Promise<void> {
  if (!("serviceWorker" in navigator) || !navigator.serviceWorker.controller) return;
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  const assets = new Set([...loaded.filter((name) => name.includes("/assets/")), ...more]);
  await Promise.all([...assets].map((name) => fetch(name)));
}
