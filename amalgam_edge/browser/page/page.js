// The page: what is asked, where it is answered, and what is shown. The model itself runs in model.js.

const $ = (id) => document.getElementById(id);
const percent = (score) => `${(100 * score).toFixed(1)} %`;
const NO_LABEL = "–";

let config;
let worker;
let waiting; // of the worker's answer: {resolve, reject}
let answered = []; // [{text, scores: [{label, score}, …]}, …]

function model() {
  return config.models.find((one) => one.name === $("model").value);
}

function where() {
  return $("where-browser").checked ? "browser" : "server";
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function headers() {
  return $("key").value ? { authorization: `Bearer ${$("key").value}` } : {};
}

async function onServer(texts) {
  const answer = await fetch(`models/${encodeURIComponent(model().name)}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers() },
    body: JSON.stringify({ inputs: texts }),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function inBrowser(texts) {
  if (!worker) {
    worker = new Worker("model.js", { type: "module" });
    worker.onmessage = ({ data }) => {
      if (data.progress) showProgress(data.progress);
      else if (data.error) waiting.reject(new Error(data.error));
      else waiting.resolve(data.scores);
    };
    worker.onerror = (event) => waiting.reject(new Error(event.message || "the model's thread cannot be started"));
  }
  return new Promise((resolve, reject) => {
    waiting = { resolve, reject };
    worker.postMessage({ model: model(), texts, headers: headers() });
  });
}

function showProgress({ text, share }) {
  $("progress").hidden = share >= 1;
  $("progress-text").textContent = text;
  $("bar").value = share;
}

function cell(row, tag, text) {
  const made = row.appendChild(document.createElement(tag));
  made.textContent = text;
  return made;
}

// The likeliest label, or none where its score is below the bundle's threshold.
function label({ scores }) {
  return scores[0].score < model().abstain ? NO_LABEL : scores[0].label;
}

function showOne(answer) {
  const [best] = answer.scores;
  $("one-title").textContent = label(answer) === NO_LABEL ? "No label is likely enough" : `${best.label}, ${percent(best.score)}`;
  $("bars").replaceChildren(
    ...answer.scores.map(({ label, score }) => {
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

function showMany(answers) {
  $("many-title").textContent = `${answers.length} texts`;
  $("rows").replaceChildren(
    ...answers.map((answer) => {
      const row = document.createElement("tr");
      cell(row, "td", label(answer));
      cell(row, "td", percent(answer.scores[0].score));
      cell(row, "td", answer.text);
      return row;
    }),
  );
}

async function classify(event) {
  event?.preventDefault();
  const texts = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!texts.length) {
    say("Type or paste a text first.", true);
    $("texts").focus();
    return;
  }
  $("go").disabled = true;
  say("Classifying …");
  try {
    const began = performance.now();
    const scores = await (where() === "browser" ? inBrowser(texts) : onServer(texts));
    const took = performance.now() - began;
    answered = texts.map((text, k) => ({ text, scores: scores[k] }));
    const one = texts.length === 1;
    $("one").hidden = !one;
    $("many").hidden = one;
    if (one) showOne(answered[0]);
    else showMany(answered);
    const place = where() === "browser" ? "in this browser" : "on the server";
    say(`${one ? `${label(answered[0])}. ` : ""}${texts.length} text${one ? "" : "s"} in ${took.toFixed(took < 10 ? 1 : 0)} ms, ${place}.`);
  } catch (error) {
    say(`No answer: ${error.message}`, true);
  } finally {
    $("progress").hidden = true;
    $("go").disabled = false;
  }
}

// A cell that a spreadsheet would take for a formula begins with a quote.
function csvCell(value) {
  const text = String(value);
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function save() {
  const labels = model().labels;
  const rows = answered.map((answer) => {
    const own = Object.fromEntries(answer.scores.map(({ label, score }) => [label, score]));
    return [answer.text, label(answer) === NO_LABEL ? "" : label(answer), answer.scores[0].score, ...labels.map((name) => own[name])];
  });
  const csv = [["text", "label", "score", ...labels], ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv, "\r\n"], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function describe() {
  const { labels, bytes } = model();
  const download = config.browser ? ` In this browser it takes a download of ${((bytes + 14.5e6) / 1e6).toFixed(0)} MB, once.` : "";
  $("about").textContent = `${labels.length} labels: ${labels.join(", ")}.${download}`;
}

async function start() {
  config = await (await fetch("config.json")).json();
  $("model").replaceChildren(...config.models.map(({ name }) => new Option(name, name)));
  $("model-choice").hidden = config.models.length < 2;
  $("where").hidden = !config.server;
  $("where-server").checked = config.server;
  $("where-browser").checked = !config.server;
  $("where-browser").disabled = !config.browser;
  $("key-choice").hidden = !config.key;
  if (!config.browser) {
    $("why").textContent = "This server was started without --in-browser, so that the model runs on the server alone.";
    $("why").hidden = false;
  }
  describe();
  $("model").addEventListener("change", describe);
  $("form").addEventListener("submit", classify);
  $("save").addEventListener("click", save);
  $("texts").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) classify(event);
  });
  if (config.browser && "serviceWorker" in navigator) await navigator.serviceWorker.register("offline.js");
  document.body.dataset.ready = "yes";
}

start().catch((error) => say(`The page cannot start: ${error.message}`, true));
