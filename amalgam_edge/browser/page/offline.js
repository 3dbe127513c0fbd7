// A service worker: what was loaded once is there without a network. A model never changes under its address, nor do the
// libraries under the name of the cache: they are taken from it first. All else is asked for anew, and comes from the
// cache if that fails.
const CACHE = "amalgam-edge-6d662e17daac";
const PAGE = ["./", "page.css", "page.js", "model.js", "config.json"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const drop = (names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
  event.waitUntil(caches.keys().then(drop).then(() => self.clients.claim()));
});

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
