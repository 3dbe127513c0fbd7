// A service worker: the page works offline once it has been loaded. The address of a model holds its version, and the
// name of the cache holds those of the libraries, so both come from the cache first. Everything else comes from the
// network first, and from the cache if that fails.
const CACHE = "amalgam-edge-6d662e17daac";
const PAGE = ["./", "page.css", "page.js", "results.js", "answers.js", "model.js", "config.json"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const deleteOthers = (names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
  event.waitUntil(caches.keys().then(deleteOthers).then(() => self.clients.claim()));
});

async function cacheFirst(request) {
  const cache = await caches.open(CACHE);
  const cached = await cache.match(request);
  if (cached) return cached;
  const response = await fetch(request);
  if (response.ok) {
    const url = new URL(request.url);
    for (const key of await cache.keys()) {
      const { pathname, search } = new URL(key.url);
      if (pathname === url.pathname && search !== url.search) await cache.delete(key); // an old version
    }
    await cache.put(request, response.clone());
  }
  return response;
}

async function networkFirst(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const cached = await cache.match(request);
    if (cached) return cached;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const scope = new URL(self.registration.scope);
  if (event.request.method !== "GET" || url.origin !== scope.origin) return;
  const path = url.pathname.slice(scope.pathname.length);
  if (path.startsWith("bundles/") || path.startsWith("libraries/")) event.respondWith(cacheFirst(event.request));
  else if (path === "" || PAGE.includes(path)) event.respondWith(networkFirst(event.request));
});
