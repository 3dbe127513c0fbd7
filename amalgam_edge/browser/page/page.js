// The page: reads the texts, has them classified on the server or in this browser (model.js), and shows the results.
import { headsOf, positions, toCsv } from "./answers.js";
import { showMany, showOne, summary } from "./results.js";

const $ = (id) => document.getElementById(id);
const LIBRARIES_BYTES = 14.5e6; // approximate size of the JavaScript libraries

let config;
let worker;
let pending; // {resolve, reject} of the promise of the worker's results
let answered; // the model of the last request, and its results: [{text, truncated, heads: [[{label, score}, …], …]}, …]

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
  const heads = headsOf(model());
  const cut = positions(response.headers.get("x-truncated"));
  return body.map((answer, k) => ({ truncated: cut.has(k), heads: heads.length > 1 ? heads.map(({ name }) => answer[name]) : [answer] }));
}

function inBrowser(texts) {
  if (!worker) {
    worker = new Worker("model.js", { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.progress) showProgress(data.progress);
      else if (data.error) pending.reject(new Error(data.error));
      else pending.resolve(data.results);
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

function notRead(results) {
  const cut = results.filter(({ truncated }) => truncated).length;
  if (!cut) return "";
  return results.length === 1 ? " Its end was not read." : ` The end of ${cut} was not read.`;
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
    const asked = model();
    const found = await (where() === "browser" ? inBrowser(texts) : onServer(texts));
    const took = performance.now() - started;
    const results = found.map((result, k) => ({ text: texts[k], ...result }));
    answered = { model: asked, results };
    const isSingle = texts.length === 1;
    $("one").hidden = !isSingle;
    $("many").hidden = isSingle;
    document.body.classList.toggle("several-heads", headsOf(asked).length > 1);
    if (isSingle) showOne(asked, results[0]);
    else showMany(asked, results);
    const place = where() === "browser" ? "in this browser" : "on the server";
    showStatus(`${isSingle ? `${summary(asked, results[0])}. ` : ""}${texts.length} text${isSingle ? "" : "s"} in ${took.toFixed(took < 10 ? 1 : 0)} ms, ${place}.${notRead(results)}`);
  } catch (error) {
    showStatus(`No answer: ${error.message}`, true);
  } finally {
    $("progress").hidden = true;
    $("go").disabled = false;
  }
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", toCsv(answered.model, answered.results)], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

// The labels of a model in words.
function labelsInWords(model) {
  const heads = headsOf(model);
  const list = ({ labels, activation }) => {
    if (activation === "sigmoid" && labels.length === 1) return `${labels[0]} or not`;
    return `${activation === "sigmoid" ? "any of " : ""}${labels.join(", ")}`;
  };
  if (heads.length === 1) return `${model.labels.length} label${model.labels.length === 1 ? "" : "s"}: ${list(heads[0])}.`;
  return `${heads.length} heads: ${heads.map((head) => `${head.name} (${list(head)})`).join("; ")}.`;
}

function describe() {
  if (!model()) return;
  const { bytes } = model();
  const download = config.browser ? ` In this browser it takes a download of ${((bytes + LIBRARIES_BYTES) / 1e6).toFixed(0)} MB, once.` : "";
  $("about").textContent = `${labelsInWords(model())}${download}`;
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
