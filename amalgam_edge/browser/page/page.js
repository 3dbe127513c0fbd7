// The page: reads the texts, has them classified on the server or in this browser (model.js), and shows the results.

const $ = (id) => document.getElementById(id);
const percent = (score) => `${(100 * score).toFixed(1)} %`;
const NO_LABEL = "–"; // shown if the best score is below the bundle's threshold
const LIBRARIES_BYTES = 14.5e6; // approximate size of the JavaScript libraries

let config;
let worker;
let pending; // {resolve, reject} of the promise of the worker's scores
let results = []; // of the last request: [{text, scores: [{label, score}, …]}, …]

function model() {
  return config.models.find(({ name }) => name === $("model").value);
}

function where() {
  return $("where-browser").checked ? "browser" : "server";
}

function showStatus(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isError);
}

function headers() {
  return $("key").value ? { authorization: `Bearer ${$("key").value}` } : {};
}

async function onServer(texts) {
  const response = await fetch(`models/${encodeURIComponent(model().name)}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers() },
    body: JSON.stringify({ inputs: texts }),
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

function inBrowser(texts) {
  if (!worker) {
    worker = new Worker("model.js", { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.progress) showProgress(data.progress);
      else if (data.error) pending.reject(new Error(data.error));
      else pending.resolve(data.scores);
    };
    worker.onerror = (event) => pending.reject(new Error(event.message || "the model's thread cannot be started"));
  }
  return new Promise((resolve, reject) => {
    pending = { resolve, reject };
    worker.postMessage({ model: model(), texts, headers: headers() });
  });
}

function showProgress({ text, share }) {
  $("progress").hidden = share >= 1;
  $("progress-text").textContent = text;
  $("bar").value = share;
}

function cell(row, tag, text) {
  const element = row.appendChild(document.createElement(tag));
  element.textContent = text;
  return element;
}

// The likeliest label, or NO_LABEL if its score is below the bundle's threshold.
function label({ scores }) {
  return scores[0].score < model().abstain ? NO_LABEL : scores[0].label;
}

function showOne(result) {
  const [best] = result.scores;
  $("one-title").textContent = label(result) === NO_LABEL ? "No label is likely enough" : `${best.label}, ${percent(best.score)}`;
  $("bars").replaceChildren(
    ...result.scores.map(({ label, score }) => {
      const row = document.createElement("tr");
      const name = cell(row, "th", label);
      name.scope = "row";
      name.title = label;
      const track = cell(row, "td", "").appendChild(document.createElement("div"));
      track.className = "track";
      track.setAttribute("aria-hidden", "true");
      const fill = track.appendChild(document.createElement("div"));
      fill.className = "fill";
      fill.style.width = `${100 * score}%`;
      cell(row, "td", percent(score));
      return row;
    }),
  );
}

function showMany(results) {
  $("many-title").textContent = `${results.length} texts`;
  $("rows").replaceChildren(
    ...results.map((result) => {
      const row = document.createElement("tr");
      cell(row, "td", label(result));
      cell(row, "td", percent(result.scores[0].score));
      cell(row, "td", result.text);
      return row;
    }),
  );
}

async function classify(event) {
  event?.preventDefault();
  const texts = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!model() && !(await loadModels())) {
    showStatus("Type the API key first.", true);
    $("key").focus();
    return;
  }
  if (!texts.length) {
    showStatus("Type or paste a text first.", true);
    $("texts").focus();
    return;
  }
  $("go").disabled = true;
  showStatus("Classifying …");
  try {
    const started = performance.now();
    const scores = await (where() === "browser" ? inBrowser(texts) : onServer(texts));
    const took = performance.now() - started;
    results = texts.map((text, k) => ({ text, scores: scores[k] }));
    const isSingle = texts.length === 1;
    $("one").hidden = !isSingle;
    $("many").hidden = isSingle;
    if (isSingle) showOne(results[0]);
    else showMany(results);
    const place = where() === "browser" ? "in this browser" : "on the server";
    showStatus(`${isSingle ? `${label(results[0])}. ` : ""}${texts.length} text${isSingle ? "" : "s"} in ${took.toFixed(took < 10 ? 1 : 0)} ms, ${place}.`);
  } catch (error) {
    showStatus(`No answer: ${error.message}`, true);
  } finally {
    $("progress").hidden = true;
    $("go").disabled = false;
  }
}

// A CSV cell. Text that a spreadsheet would run as a formula gets a leading quote.
function csvCell(value) {
  const text = String(value);
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function save() {
  const labels = model().labels;
  const rows = results.map((result) => {
    const scoreOf = Object.fromEntries(result.scores.map(({ label, score }) => [label, score]));
    return [result.text, label(result) === NO_LABEL ? "" : label(result), result.scores[0].score, ...labels.map((name) => scoreOf[name])];
  });
  const csv = [["text", "label", "score", ...labels], ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv, "\r\n"], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function describe() {
  if (!model()) return;
  const { labels, bytes } = model();
  const download = config.browser ? ` In this browser it takes a download of ${((bytes + LIBRARIES_BYTES) / 1e6).toFixed(0)} MB, once.` : "";
  $("about").textContent = `${labels.length} labels: ${labels.join(", ")}.${download}`;
}

// Asks for the models. A server with API keys names them only to those who have one. Returns whether there are any.
async function loadModels() {
  const response = await fetch("config.json", { headers: headers() });
  const answer = await response.json();
  if (!response.ok) {
    if (!config) throw new Error(answer.error);
    return false;
  }
  config = answer;
  $("model").replaceChildren(...config.models.map(({ name }) => new Option(name, name)));
  $("model-choice").hidden = config.models.length < 2;
  $("where-browser").disabled = !config.browser;
  describe();
  return config.models.length > 0;
}

async function start() {
  await loadModels();
  $("where").hidden = !config.server;
  $("where-server").checked = config.server;
  $("where-browser").checked = !config.server;
  $("key-choice").hidden = !config.key;
  if (!config.browser) {
    $("why").textContent = "This server was started without --in-browser, so the model runs on the server only.";
    $("why").hidden = false;
  }
  $("key").addEventListener("change", loadModels);
  $("model").addEventListener("change", describe);
  $("form").addEventListener("submit", classify);
  $("save").addEventListener("click", save);
  $("texts").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) classify(event);
  });
  if (config.browser && "serviceWorker" in navigator) await navigator.serviceWorker.register("offline.js");
  document.body.dataset.ready = "yes";
}

start().catch((error) => showStatus(`The page cannot start: ${error.message}`, true));
