// node page.mjs CHROMIUM URL TEXTS WHERE SCREENSHOT [offline]: asks the page, and tells as JSON what it shows.
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [executablePath, url, texts, where, screenshot, offline] = process.argv.slice(2);
const lines = JSON.parse(await readFile(texts, "utf-8"));
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ colorScheme: "dark", viewport: { width: 400, height: 900 } });
const page = await context.newPage();
const faults = [];
const elsewhere = [];
const progress = new Set();
page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
page.on("pageerror", (error) => faults.push(error.message));
context.on("request", (request) => new URL(request.url()).origin === new URL(url).origin || elsewhere.push(request.url()));

async function open() {
  await page.goto(url);
  await page.waitForSelector("body[data-ready]");
  await page.exposeFunction("told", (text) => progress.add(text)).catch(() => {});
  await page.evaluate(() => {
    new MutationObserver(() => window.told(document.querySelector("#progress-text").textContent)).observe(
      document.querySelector("#progress-text"), { childList: true, characterData: true, subtree: true });
  });
  if (await page.locator("#where").isVisible()) await page.check(`#where-${where}`);
}

async function ask(asked) {
  await page.fill("#texts", asked.join("\n"));
  const wanted = `${asked.length} text`;
  await page.evaluate(() => (document.querySelector("#status").textContent = ""));
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(
    (wanted) => document.querySelector("#status").textContent.includes(wanted) || document.querySelector("#status").classList.contains("bad"),
    wanted, { timeout: 120_000 });
  return page.textContent("#status");
}

// What the page shows of one text: the title, what it says of a text that was cut, and each head with its bars.
function shownOne() {
  return page.evaluate(() => ({
    title: document.querySelector("#one-title").textContent,
    cut: document.querySelector("#cut").hidden ? null : document.querySelector("#cut").textContent,
    bars: [...document.querySelectorAll("#heads tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
    heads: [...document.querySelectorAll("#heads table")].map((table) => ({
      name: table.parentElement.querySelector("h3")?.textContent ?? null,
      answer: table.parentElement.querySelector(".answer")?.textContent ?? null,
      caption: table.caption.textContent,
      bars: [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[2].textContent, row.className]),
    })),
  }));
}

// What the page shows of several texts: of each cell the text, or its lines, without the mark of a text that was cut.
function shownMany() {
  return page.evaluate(() => {
    const wordsOf = (cell) => {
      const lines = [...cell.querySelectorAll(".line")].map((line) => [...line.children].map((part) => part.textContent));
      return lines.length ? lines : cell.firstChild.textContent;
    };
    return {
      columns: [...document.querySelector("#columns").cells].map((cell) => cell.textContent),
      rows: [...document.querySelectorAll("#rows tr")].map((row) => [...row.cells].map(wordsOf)),
      cut: [...document.querySelectorAll("#rows tr")].map((row) => row.querySelector(".cut")?.textContent ?? null),
      named: [...document.querySelectorAll("#rows tr")].map((row) => [...row.cells].map((cell) => cell.dataset.head ?? null)),
    };
  });
}

const isWide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

await open();
const empty = await (async () => {
  await page.fill("#texts", "  \n ");
  await page.click("#go");
  return page.textContent("#status");
})();
const one = { status: await ask(lines.slice(0, 1)), ...(await shownOne()), wide: await isWide() };
const last = { status: await ask(lines.slice(-1)), ...(await shownOne()) };
await page.screenshot({ path: `${screenshot}-one.png` });
const many = { status: await ask(lines), ...(await shownMany()) };
await page.screenshot({ path: `${screenshot}-many.png` });
const saved = page.waitForEvent("download");
await page.click("#save");
const csv = await readFile(await (await saved).path(), "utf-8");
let again = null;
if (offline) {
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload();
  await page.waitForFunction(() => navigator.serviceWorker.controller);
  await open();
  await ask(lines); // by way of the service worker, so that it keeps what the model needs
  await context.setOffline(true);
  await open();
  again = { status: await ask(lines), ...(await shownMany()) };
}
const isolated = await page.evaluate(() => crossOriginIsolated);
const unnamed = await page.locator("button, input, select, textarea, progress").evaluateAll((all) =>
  all.filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label"))).map((one) => one.id));
const wide = one.wide || (await isWide());
await browser.close();
process.stdout.write(JSON.stringify({ empty, one, last, many, csv, again, faults, elsewhere, progress: [...progress], isolated, unnamed, wide }));
