/** The demo page: one entry for each photo; image-classifier.js does the work. */

import { texts } from "./demo-texts.js";
import { createI18n } from "./i18n.js";
import { ClassifyError, classifyPhoto } from "./image-classifier.js";

const CONCURRENCY = 3;
const KEY_ERRORS = ["api_key_required", "invalid_api_key", "insufficient_scope", "too_many_wrong_keys"];
const STEPS = ["compress", "hash", "check", "upload"];
const EMOJI = {
  social_activities: "🎉",
  pets: "🐱",
  single_person: "🧑",
  foods: "🍜",
  travel_scenery: "🏞️",
  screenshot: "📱",
  idcard: "🪪",
  other: "📦",
};

/**
 * One photo on the page.
 *
 * @typedef {object} Entry
 * @property {File} file
 * @property {"waiting" | "working" | "done" | "failed"} state
 * @property {Map<string, number | null>} steps  milliseconds of each step, null while it runs
 * @property {import("./image-classifier.js").Answer} [answer]
 * @property {ClassifyError | Error} [error]  not a ClassifyError: a bug of this page
 * @property {HTMLElement} element
 */

const { dataset } = document.querySelector("main");
const costPerCall = Number(dataset.costPerCall);
const maxBytes = Number(dataset.maxImageBytes);
const needsKey = dataset.needsKey === "true";
const find = (id) => document.getElementById(id);
const i18n = createI18n(texts);
const { t } = i18n;
/** @type {Entry[]} the newest first */
let entries = [];
let session = new AbortController();
/** @type {Record<string, {chinese: string, english: string}>} */
let categoryNames = {};
let areNamesAsked = false;

// ----- work

/** @param {Iterable<File>} files */
function add(files) {
  for (const file of files) {
    const element = find("entry").content.firstElementChild.cloneNode(true);
    /** @type {Entry} */
    const entry = { file, state: "waiting", steps: new Map(), element };
    showThumbnail(entry);
    element.querySelector(".again").addEventListener("click", () => add([file]));
    i18n.translate(element);
    find("history").prepend(element);
    entries.unshift(entry);
    render(entry);
  }
  renderTotals();
  startWaiting();
}

function startWaiting() {
  const free = CONCURRENCY - entries.filter((entry) => entry.state === "working").length;
  // The first that came is the last of the list.
  for (const entry of entries.filter((entry) => entry.state === "waiting").reverse().slice(0, free)) work(entry);
}

/** @param {Entry} entry */
async function work(entry) {
  const { signal } = session;
  entry.state = "working";
  render(entry);
  try {
    entry.answer = await classifyPhoto(entry.file, {
      // The page may be behind a path prefix.
      server: new URL(".", document.baseURI).href,
      apiKey: apiKey(),
      language: i18n.language,
      signal,
      maxBytes,
      onStep({ name, milliseconds }) {
        entry.steps.set(name, milliseconds);
        render(entry);
      },
    });
    entry.state = "done";
    // Now they can be had, if they could not before.
    loadNames();
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ClassifyError)) console.error(error);
    entry.error = error;
    // A key may have been made, or have ended, since the page was loaded.
    if (KEY_ERRORS.includes(error.code)) find("key-card").hidden = false;
    entry.state = "failed";
  }
  render(entry);
  renderTotals();
  find("status").textContent = announcement(entry);
  startWaiting();
}

/** It is kept nowhere but in its field. */
function apiKey() {
  return find("key").value.trim();
}

/** Learn what the categories are called; until then, keys stand for the names. */
async function loadNames() {
  if (areNamesAsked || (needsKey && !entries.some((entry) => entry.state === "done"))) return;
  areNamesAsked = true;
  try {
    const headers = apiKey() ? { "X-API-Key": apiKey() } : {};
    categoryNames = (await (await fetch("api/v1/categories", { headers })).json()).categoryNameMap ?? {};
    entries.forEach(render);
  } catch {
    // The service cannot be reached, which the next photo will report.
    areNamesAsked = false;
  }
}

function clear() {
  session.abort();
  session = new AbortController();
  for (const { element } of entries) {
    const image = element.querySelector(".thumbnail");
    if (image) URL.revokeObjectURL(image.src);
    element.remove();
  }
  entries = [];
  renderTotals();
}

// ----- texts

function size(bytes) {
  const [unit, value] = bytes < 1e6 ? ["kilobyte", bytes / 1e3] : ["megabyte", bytes / 1e6];
  return i18n.number(value, { style: "unit", unit, maximumFractionDigits: value < 10 ? 1 : 0 });
}
const milliseconds = (value) => t("milliseconds", { number: i18n.number(value, { maximumFractionDigits: value < 10 ? 1 : 0 }) });
const money = (value) => i18n.number(value, { style: "currency", currency: dataset.currency, currencyDisplay: "narrowSymbol", minimumFractionDigits: 2, maximumFractionDigits: 4 });
const percent = (value) => i18n.number(value, { style: "percent", maximumFractionDigits: 1 });

/** Both names, the reader's language first; the key alone until the names are known. */
function namesOf(key) {
  const names = categoryNames[key];
  if (!names) return [key];
  const both = [names.english, names.chinese];
  return i18n.language === "zh" ? both.reverse() : both;
}

/** @param {Entry} entry */
function outcomeKey({ state, answer }) {
  if (state !== "done") return state;
  if (answer.match === "similar") return "similar";
  if (!answer.photo.uploaded) return "hit";
  return answer.from_cache ? "uploadedHit" : "miss";
}

/** @param {Entry} entry */
function reason({ error }) {
  const key = `error.${error.code}`;
  // A newer service may have further codes; its message is in the browser's language.
  return key in texts.en ? t(key) : error.message;
}

/** @param {Entry} entry */
function announcement(entry) {
  const name = entry.file.name;
  if (entry.state === "failed") return t("announceFailure", { name, reason: reason(entry) });
  const { category, confidence } = entry.answer.data;
  return t("announceResult", {
    name,
    category: namesOf(category)[0],
    confidence: percent(confidence),
    outcome: t(outcomeKey(entry)),
  });
}

/** @param {Entry} entry */
function facts({ file, answer, error }) {
  const parts = [file.name];
  if (answer) {
    const { photo } = answer;
    const values = {
      bytes: size(photo.bytes),
      uploaded: size(photo.bytes),
      original: size(file.size),
      money: money(costPerCall),
    };
    if (!photo.uploaded) parts.push(t("savedByHit", values));
    else parts.push(t(answer.from_cache ? "savedByUploadedHit" : "savedByMiss", values));
    if (!photo.compressed) parts.push(t("original"));
  }
  const id = answer?.request_id ?? error?.requestId;
  if (id) parts.push(t("requestId", { id }));
  return parts;
}

// ----- rendering

/** @param {Entry} entry */
function render(entry) {
  const { element, answer, state } = entry;
  const part = (name) => element.querySelector(`.${name}`);
  const outcome = outcomeKey(entry);
  element.dataset.outcome = outcome;
  part("outcome").textContent = t(outcome);
  part("outcome").className = `badge outcome ${{ hit: "good", similar: "good", uploadedHit: "good", miss: "accent", failed: "bad" }[outcome] ?? ""}`;
  part("again").hidden = state !== "done" && state !== "failed";

  part("category").textContent = answer ? `${EMOJI[answer.data.category] ?? ""} ${namesOf(answer.data.category)[0]}` : entry.file.name;
  part("other-name").textContent = answer ? (namesOf(answer.data.category)[1] ?? "") : "";
  part("confidence").hidden = !answer;
  part("description").hidden = !answer?.data.description;
  if (answer) {
    const { category, confidence, description } = answer.data;
    element.dataset.category = category;
    part("confidence").querySelector("meter").value = confidence;
    part("confidence").querySelector("meter").ariaLabel = t("confidence");
    part("confidence").querySelector("span").textContent = percent(confidence);
    part("description").textContent = description;
  }
  part("failure").hidden = state !== "failed";
  if (state === "failed") part("failure").textContent = reason(entry);

  part("steps").replaceChildren(...STEPS.filter((name) => entry.steps.has(name)).map((name) => stepElement(entry, name)));
  part("facts").replaceChildren(
    ...facts(entry).map((text) => Object.assign(document.createElement("span"), { textContent: text })),
  );
}

/** One step as a bar, as long as its share of the whole. */
function stepElement({ steps, state }, name) {
  const value = steps.get(name);
  const item = document.createElement("li");
  item.dataset.step = name;
  const label = Object.assign(document.createElement("span"), { textContent: t(name) });
  const bar = document.createElement("progress");
  bar.ariaHidden = "true";
  const time = Object.assign(document.createElement("span"), { className: "number" });
  if (value === null) {
    // A bar without a value is animated; that of a failed step is not.
    if (state === "failed") bar.value = 0;
    time.textContent = state === "failed" ? "–" : "…";
  } else {
    bar.max = Math.max(1, ...[...steps.values()].filter((ended) => ended !== null));
    bar.value = value;
    time.textContent = milliseconds(value);
  }
  item.append(label, bar, time);
  return item;
}

function renderTotals() {
  const done = entries.filter((entry) => entry.state === "done").map((entry) => entry.answer);
  const hits = done.filter((answer) => answer.from_cache);
  const saved = done.filter((answer) => !answer.photo.uploaded).reduce((sum, answer) => sum + answer.photo.bytes, 0);
  find("total-photos").textContent = i18n.number(done.length);
  find("total-hits").textContent = i18n.number(hits.length);
  find("total-bytes").textContent = size(saved);
  find("total-money").textContent = money(hits.length * costPerCall);
  find("totals").hidden = find("clear").hidden = entries.length === 0;
  find("empty").hidden = entries.length > 0;
}

/** @param {Entry} entry */
function showThumbnail({ file, element }) {
  const image = element.querySelector(".thumbnail");
  image.addEventListener("load", () => element.classList.add("with-thumbnail"));
  // Not a picture, or one that only the service can decode: no thumbnail.
  image.addEventListener("error", () => {
    URL.revokeObjectURL(image.src);
    image.remove();
  });
  image.src = URL.createObjectURL(file);
}

// ----- events

for (const input of [find("choose"), find("camera")]) {
  input.addEventListener("change", () => {
    add(input.files);
    // So that choosing the same file again is a change, too.
    input.value = "";
  });
}
find("clear").addEventListener("click", clear);
document.addEventListener("paste", (event) => add(event.clipboardData.files));

// The whole page is a drop target: elsewhere the browser would leave the page and open the file.
let draggedOver = 0;
const showDrop = (change) => {
  draggedOver = Math.max(0, draggedOver + change);
  find("drop").classList.toggle("over", draggedOver > 0);
};
document.addEventListener("dragenter", () => showDrop(1));
document.addEventListener("dragleave", () => showDrop(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  showDrop(-draggedOver);
  add(event.dataTransfer.files);
});

i18n.onChange(() => {
  entries.forEach(render);
  renderTotals();
});

find("key-card").hidden = !needsKey;
await loadNames();
