// Shows results: of a text the labels of each head as bars, of several texts a table.
import { answersOf, headsOf } from "./answers.js";

const $ = (id) => document.getElementById(id);
const NO_LABEL = "–"; // shown where no label is likely enough

export const percent = (score) => `${(100 * score).toFixed(1)} %`;

function add(parent, tag, text = "", className = "") {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  element.className = className;
  return element;
}

function headerCell(row, text, scope) {
  add(row, "th", text).scope = scope;
}

function addBar(parent, score) {
  const track = add(parent, "div", "", "track");
  track.setAttribute("aria-hidden", "true");
  add(track, "div", "", "fill").style.width = `${100 * score}%`;
}

// The labels that a head gives, as a list of words; NO_LABEL if it gives none.
function labels(head, ranked) {
  return answersOf(head, ranked).map(({ label }) => label).join(", ") || NO_LABEL;
}

// The same with their scores, as a title.
function title(head, ranked) {
  const separator = head.activation === "softmax" ? ", " : " ";
  const answers = answersOf(head, ranked).map(({ label, score }) => `${label}${separator}${percent(score)}`);
  return answers.join(", ") || "No label is likely enough";
}

// The answers of all heads in one line.
export function summary(model, { heads: ranked }) {
  const heads = headsOf(model);
  return heads.map((head, h) => `${heads.length > 1 ? `${head.name}: ` : ""}${labels(head, ranked[h])}`).join(" · ");
}

function addBars(parent, head, ranked, caption) {
  const table = add(parent, "table", "", head.activation === "softmax" ? "bars" : "bars any");
  add(table, "caption", caption, "unseen");
  const columns = add(add(table, "thead", "", "unseen"), "tr");
  for (const name of ["Label", "Bar", "Score"]) headerCell(columns, name, "col");
  const held = new Set(answersOf(head, ranked));
  const body = add(table, "tbody");
  for (const entry of ranked) {
    const row = add(body, "tr", "", held.has(entry) ? "held" : "");
    headerCell(row, entry.label, "row");
    row.firstChild.title = entry.label;
    addBar(add(row, "td"), entry.score);
    add(row, "td", percent(entry.score));
  }
}

export function showOne(model, { truncated, heads: ranked }) {
  const heads = headsOf(model);
  const isOne = heads.length === 1;
  $("one-title").textContent = isOne ? title(heads[0], ranked[0]) : `${heads.length} answers`;
  $("cut").hidden = !truncated;
  $("cut").textContent = `The end of this text was not read: the model reads ${model.max_length} tokens of a text.`;
  $("heads").replaceChildren();
  heads.forEach((head, h) => {
    const place = isOne ? $("heads") : add($("heads"), "section");
    if (!isOne) {
      add(place, "h3", head.name);
      add(place, "p", title(head, ranked[h]), "answer");
    }
    addBars(place, head, ranked[h], isOne ? "Labels and their scores" : `Labels of ${head.name} and their scores`);
  });
}

function addText(row, { text, truncated }) {
  const cell = add(row, "td", text, "text");
  if (truncated) add(cell, "span", "end not read", "cut");
}

// A row of a table whose columns are the heads. On a narrow screen each row is a card, so cells name their head.
function addRowOfHeads(body, heads, result) {
  const row = add(body, "tr");
  addText(row, result);
  heads.forEach((head, h) => {
    const cell = add(row, "td");
    cell.dataset.head = head.name;
    const answers = answersOf(head, result.heads[h]);
    const shown = answers.length ? answers : [{ label: NO_LABEL, score: result.heads[h][0].score }];
    for (const { label, score } of shown) {
      const line = add(cell, "div", "", "line");
      add(line, "span", label);
      add(line, "span", percent(score));
      addBar(cell, score);
    }
  });
}

function addRow(body, head, result) {
  const row = add(body, "tr");
  add(row, "td", labels(head, result.heads[0]));
  add(row, "td", percent(result.heads[0][0].score));
  addText(row, result);
}

export function showMany(model, results) {
  const heads = headsOf(model);
  const isOne = heads.length === 1;
  $("many-title").textContent = `${results.length} texts`;
  $("table").className = isOne ? "" : "of-heads";
  $("columns").replaceChildren();
  const columns = isOne ? [heads[0].activation === "softmax" ? "Label" : "Labels", "Score", "Text"] : ["Text", ...heads.map(({ name }) => name)];
  for (const name of columns) headerCell($("columns"), name, "col");
  const body = document.createDocumentFragment();
  for (const result of results) {
    if (isOne) addRow(body, heads[0], result);
    else addRowOfHeads(body, heads, result);
  }
  $("rows").replaceChildren(body);
  if (!isOne) keepRoles($("table"));
}

// Browsers take a table for none where the cells are no cells in CSS, as they are not on a narrow screen.
function keepRoles(table) {
  table.setAttribute("role", "table");
  for (const [selector, role] of [["thead, tbody", "rowgroup"], ["tr", "row"], ["th", "columnheader"], ["td", "cell"]]) {
    for (const element of table.querySelectorAll(selector)) element.setAttribute("role", role);
  }
}
