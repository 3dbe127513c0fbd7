// What the heads of a model answer, read from the scores of their labels. Pure functions.

const SEPARATOR = ";"; // between several labels in one cell

// The heads of a model. That of a plain classifier has no name.
export function headsOf({ heads, labels, abstain }) {
  return heads ?? [{ name: "", activation: "softmax", labels, abstain }];
}

// The labels that a head gives a text, of all its labels, the likeliest first: [{label, score}, …].
export function answersOf(head, ranked) {
  if (head.activation === "softmax") return ranked[0].score < head.abstain ? [] : [ranked[0]];
  return ranked.filter(({ label, score }) => score >= head.thresholds[head.labels.indexOf(label)]);
}

// The numbers in a header such as "0,3-7".
export function positions(shown) {
  const found = new Set();
  for (const run of (shown ?? "").split(",").filter(Boolean)) {
    const [first, last = first] = run.split("-").map(Number);
    for (let k = first; k <= last; k++) found.add(k);
  }
  return found;
}

// A CSV cell. Text that a spreadsheet would run as a formula gets a leading quote.
function csvCell(value) {
  const text = String(value);
  const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function joined(items) {
  return items.some((item) => String(item).includes(SEPARATOR)) ? JSON.stringify(items) : items.join(SEPARATOR);
}

// The names of a head's columns: its answer, and the score or the scores.
function columnsOf({ name, activation }) {
  const isSoftmax = activation === "softmax";
  if (name) return [name, `${name}_${isSoftmax ? "score" : "scores"}`];
  return isSoftmax ? ["label", "score"] : ["labels", "label_scores"];
}

function cellsOf(head, ranked) {
  const answers = answersOf(head, ranked);
  if (head.activation === "softmax") return [answers[0]?.label ?? "", ranked[0].score];
  return [joined(answers.map(({ label }) => label)), joined(answers.map(({ score }) => score))];
}

// Results as CSV, with the columns that "amalgam-edge predict" writes: the answer of each head, and all scores.
export function toCsv(model, results) {
  const heads = headsOf(model);
  const isOne = heads.length === 1;
  const columns = heads.flatMap((head) => columnsOf(isOne ? { ...head, name: "" } : head));
  const rows = results.map(({ text, truncated, heads: ranked }) => {
    const scores = heads.flatMap(({ labels }, h) => labels.map((label) => ranked[h].find((entry) => entry.label === label).score));
    return [text, ...heads.flatMap((head, h) => cellsOf(head, ranked[h])), truncated, ...scores];
  });
  return [["text", ...columns, "truncated", ...model.labels], ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}
