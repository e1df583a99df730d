// Keeps what the page is made of, so that the page opens without a server.
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).pathname.startsWith("/v1/")) return;
  event.respondWith(
    caches.open("page").then(async (cache) => {
      try {
        const answer = await fetch(event.request);
        await cache.put(event.request, answer.clone());
        return answer;
      } catch {
        return cache.match(event.request);
      }
    }),
  );
});
