// A service worker: what was loaded once is there without a network. Models and libraries never change under their
// address, so that they are taken from the cache first; all else is asked for anew, and from the cache if that fails.
const CACHE = "amalgam-edge-1";
const PAGE = ["./", "page.css", "page.js", "model.js", "config.json"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function kept(request) {
  const cache = await caches.open(CACHE);
  const old = await cache.match(request);
  if (old) return old;
  const answer = await fetch(request);
  if (answer.ok) {
    const own = new URL(request.url);
    for (const other of await cache.keys()) {
      const { pathname, search } = new URL(other.url);
      if (pathname === own.pathname && search !== own.search) await cache.delete(other); // an old version
    }
    await cache.put(request, answer.clone());
  }
  return answer;
}

async function fresh(request) {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request);
    if (answer.ok) await cache.put(request, answer.clone());
    return answer;
  } catch (error) {
    const old = await cache.match(request);
    if (old) return old;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const scope = new URL(self.registration.scope);
  if (event.request.method !== "GET" || url.origin !== scope.origin) return;
  const path = url.pathname.slice(scope.pathname.length);
  if (path.startsWith("bundles/") || path.startsWith("libraries/")) event.respondWith(kept(event.request));
  else if (path === "" || PAGE.includes(path)) event.respondWith(fresh(event.request));
});
