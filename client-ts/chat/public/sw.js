// Lets the page open without its server. The document comes from the network, or from the cache if there is no network. The names
// of its files contain a hash of their content, so a cached file is never stale. Requests to the API are not intercepted.

const CACHE = "caudal-page-1";
const SHELL = ["./", "./icon.svg", "./manifest.webmanifest"];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(SHELL))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const others = (names) => names.filter((name) => name.startsWith("caudal-page-") && name !== CACHE);
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(others(names).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const scope = new URL(self.registration.scope);
  const isOurs = request.method === "GET" && url.origin === scope.origin && url.pathname.startsWith(scope.pathname);
  if (!isOurs) return;
  const path = url.pathname.slice(scope.pathname.length);
  if (path.startsWith("assets/")) event.respondWith(cacheFirst(request));
  else if (["", "index.html", "icon.svg", "manifest.webmanifest"].includes(path))
    event.respondWith(networkFirst(request, path));
});

async function cacheFirst(request) {
  const cache = await caches.open(CACHE);
  const known = await cache.match(request);
  if (known) return known;
  const answer = await fetch(request);
  if (answer.ok) await cache.put(request, answer.clone());
  return answer;
}

async function networkFirst(request, path) {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request);
    if (answer.ok) await cache.put(path === "" ? "./" : request, answer.clone());
    return answer;
  } catch (error) {
    const known = (await cache.match(path === "" ? "./" : request)) ?? (await cache.match("./"));
    if (known) return known;
    throw error;
  }
}
