/**
 * The review page: a list of entries, and what is done to those that are chosen.
 *
 * @module
 */

import { createI18n } from "./i18n.js";
import { texts } from "./review-texts.js";

// Without the password that an address such as https://ops:key@host/review has: fetch takes none with one.
const API = new URL("api/v1/review", location.origin + location.pathname).href;
const LIMIT = 25;
const { timezone: zone, categories } = document.querySelector("main").dataset;
/** @type {Record<string, {zh: string, en: string}>} */
const names = JSON.parse(categories);
const find = (id) => document.getElementById(id);
const i18n = createI18n(texts);
const { t } = i18n;

/** What is shown, and which of it is chosen. */
let entries = [];
const chosen = new Set();
/** Hash -> what `details` has said, of the entries whose history is open. */
const opened = new Map();
let nextBefore = null;
/** The filters of the list that is shown. */
let query = new URLSearchParams();
let request = new AbortController();

// ----- the service

class Failure extends Error {
  /** @param {string | null} code  of the service's answer; null where there was none */
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}

const isUnknown = (error) => error instanceof Failure && error.code === "cache_entry_not_found";

/**
 * Asks the service, which the field tells that it is this page that asks: the browser adds the password by itself.
 *
 * @param {string} path
 * @param {RequestInit} options
 */
async function ask(path, options = {}) {
  const headers = { "X-Requested-With": "review", ...options.headers };
  let answer;
  try {
    answer = await fetch(`${API}/${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(t("offline"));
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const { message, code } = body?.error ?? {};
    throw code ? new Failure(`${message} (${code})`, code) : new Failure(String(answer.status));
  }
  return body.data;
}

async function guarded(work) {
  find("failure").hidden = true;
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Failure)) console.error(error);
    find("failure").textContent = t("error", { message: error.message });
    find("failure").hidden = false;
  }
}

function say(text) {
  find("status").textContent = text;
}

// ----- the list

function readFilters() {
  query = new URLSearchParams();
  for (const id of ["q", "category", "model", "below"]) {
    const value = find(id).value.trim();
    if (value) query.set(id, value);
  }
  if (find("disputed").checked) query.set("disputed", "true");
}

/** @param {boolean} isFirst  false: the page after what is shown */
async function load(isFirst) {
  request.abort();
  request = new AbortController();
  const parameters = new URLSearchParams(query);
  parameters.set("limit", String(LIMIT));
  if (!isFirst && nextBefore !== null) parameters.set("before", String(nextBefore));
  say(t("loading"));
  const { signal } = request;
  const page = await ask(`entries?${parameters}`, { signal });
  const removed = isFirst && !page.entries.length ? await findRemoved(query.get("q") ?? "", signal) : null;
  if (isFirst) {
    entries = [];
    chosen.clear();
    opened.clear();
  }
  entries.push(...page.entries);
  if (removed) {
    entries.push({ image_hash: removed.image_hash, category: removed.history[0].category_before, opinions: [], is_gone: true });
    opened.set(removed.image_hash, removed);
  }
  nextBefore = page.next_before;
  showEntries();
  say(t("shown", { count: i18n.number(entries.length) }));
}

/** What there is about a photo whose entry was removed, which no list has; null if there is nothing. */
async function findRemoved(text, signal) {
  if (!/^[0-9a-f]{64}$/i.test(text)) return null;
  try {
    const details = await ask(`entries/${text.toLowerCase()}`, { signal });
    return details.entry ? null : details;
  } catch (error) {
    if (isUnknown(error)) return null;
    throw error;
  }
}

/**
 * Asks again about some photos, whose entries may have become others, or be gone.
 *
 * @returns {Promise<Error | undefined>} why some could not be asked about, which are shown as they were
 */
async function refresh(hashes) {
  const found = await Promise.allSettled(hashes.map((hash) => ask(`entries/${hash}`)));
  const failures = found.map(({ reason }) => reason).filter((reason) => reason && !isUnknown(reason));
  found.forEach(({ value: details, reason }, number) => {
    if (failures.includes(reason)) return;
    const hash = hashes[number];
    const index = entries.findIndex((entry) => entry.image_hash === hash);
    if (details && opened.has(hash)) opened.set(hash, details);
    if (index >= 0) entries[index] = details?.entry ?? { ...entries[index], is_gone: true };
  });
  showEntries();
  return failures[0];
}

const categoryName = (category) => (category ? (names[category]?.[i18n.language] ?? category) : t("nothing"));
const moment = (text) => i18n.time(new Date(text), { dateStyle: "medium", timeStyle: "short", timeZone: zone });
const shortHash = (hash) => `${hash.slice(0, 10)}…`;

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function swatch(category) {
  const made = element("span", "", "swatch");
  made.style.background = `var(--category-${category})`;
  return made;
}

function showEntry(entry) {
  const shown = find("entry").content.firstElementChild.cloneNode(true);
  i18n.translate(shown);
  const part = (name) => shown.querySelector(name);
  const { image_hash: hash, category } = entry;
  part(".choose").checked = chosen.has(hash);
  part(".choose").setAttribute("aria-label", t("chooseOne", { hash: shortHash(hash) }));
  part(".choose").addEventListener("change", (event) => choose(hash, event.target.checked));
  part(".category").append(swatch(category), entry.is_gone ? t("nothing") : categoryName(category));
  part(".hash").textContent = hash;
  const button = part(".details");
  button.addEventListener("click", () => guarded(() => toggle(hash)));
  button.setAttribute("aria-expanded", String(opened.has(hash)));
  if (opened.has(hash)) showDetails(part(".more"), opened.get(hash));
  if (entry.is_gone) return shown;
  part(".confidence").textContent = i18n.number(entry.confidence, { style: "percent", maximumFractionDigits: 1 });
  const mark = entry.is_marked ? t("marked") : entry.confidence_source === "corrected" ? t("corrected") : "";
  part(".mark").textContent = mark;
  part(".mark").hidden = mark === "";
  for (const { category: said, voters } of entry.opinions) {
    const badge = element("span", "", `badge ${said === category ? "good" : "warning"}`);
    badge.textContent = t("opinion", { category: categoryName(said), count: i18n.number(voters) });
    part(".opinions").append(badge);
  }
  part(".description").textContent = entry.description ?? t("noDescription");
  part(".description").classList.toggle("muted", entry.description === null);
  const facts = [
    t("facts", {
      model: entry.model,
      count: i18n.number(entry.hit_count),
      first: moment(entry.created_at),
      last: moment(entry.last_hit_at),
    }),
  ];
  const source = `source_${entry.confidence_source}`;
  if (source in texts.en) facts.push(t("source", { source: t(source) }));
  if (entry.similar_to) facts.push(t("similarTo", { hash: shortHash(entry.similar_to) }));
  part(".facts").textContent = facts.join(" · ");
  return shown;
}

function showDetails(target, { entry, history, comments }) {
  target.hidden = false;
  if (!entry) target.append(element("p", t("gone")));
  target.append(element("h3", t("changes")));
  const describe = (category, model) => (category ? `${categoryName(category)} (${model})` : t("nothing"));
  const list = element("ol", "");
  for (const change of history) {
    const text = t("change", {
      time: moment(change.changed_at),
      action: t(`did_${change.action}`),
      actor: change.actor === "feedback" ? t("users") : change.actor,
      before: describe(change.category_before, change.model_before),
      after: describe(change.category_after, change.model_after),
    });
    const line = element("li", change.undone_at ? `${text} ${t("changeUndone", { time: moment(change.undone_at) })}` : text);
    if (change.description_before) {
      line.append(element("div", t("wasDescribed", { text: change.description_before }), "muted"));
    }
    list.append(line);
  }
  target.append(history.length ? list : element("p", t("noChanges"), "muted small"));
  if (!comments.length) return;
  target.append(element("h3", t("comments")));
  const said = element("ul", "");
  for (const { category, text, created_at: at, is_dismissed: isDismissed } of comments) {
    const line = t("comment", { time: moment(at), category: categoryName(category), text });
    said.append(element("li", isDismissed ? `${line} ${t("commentDismissed")}` : line));
  }
  target.append(said);
}

async function toggle(hash) {
  if (!opened.delete(hash)) opened.set(hash, await ask(`entries/${hash}`));
  showEntries();
  // Its button was made anew.
  const index = entries.findIndex((entry) => entry.image_hash === hash);
  find("entries").children[index]?.querySelector(".details").focus();
}

function showEntries() {
  find("entries").replaceChildren(...entries.map(showEntry));
  find("empty").hidden = entries.length > 0;
  find("more").hidden = nextBefore === null;
  showChosen();
}

// ----- choosing, and what is done

function choose(hash, isChosen) {
  if (isChosen) chosen.add(hash);
  else chosen.delete(hash);
  showChosen();
}

function showChosen() {
  find("chosen").textContent = i18n.number(chosen.size);
  find("all").checked = entries.length > 0 && chosen.size === entries.length;
}

async function act(action) {
  const hashes = [...chosen];
  if (!hashes.length) {
    say(t("noneChosen"));
    return;
  }
  const body = { action };
  if (action === "correct") {
    body.category = find("right").value;
    body.description = find("new-description").value.trim() || null;
  }
  const outcomes = [];
  // As many as one request takes.
  for (let first = 0; first < hashes.length; first += 100) {
    const part = JSON.stringify({ ...body, image_hashes: hashes.slice(first, first + 100) });
    outcomes.push(...(await ask("actions", { method: "POST", headers: { "Content-Type": "application/json" }, body: part })));
  }
  const failed = outcomes.filter(({ error }) => error !== null);
  const parts = [];
  if (failed.length < outcomes.length) {
    parts.push(t(`done_${action}`, { count: i18n.number(outcomes.length - failed.length) }));
  }
  if (failed.length) {
    const codes = [...new Set(failed.map(({ error }) => error))].join(", ");
    parts.push(t("failed", { count: i18n.number(failed.length), codes }));
  }
  if (action === "correct") find("new-description").value = "";
  const failure = await refresh(hashes);
  say(parts.join(" "));
  if (failure) throw new Failure(t("notRefreshed", { message: failure.message }));
}

// ----- the page

function showSelects() {
  for (const [id, first] of [["category", t("any")], ["right", null]]) {
    const select = find(id);
    const { value } = select;
    const options = Object.keys(names).map((key) => new Option(categoryName(key), key));
    select.replaceChildren(...(first === null ? [] : [new Option(first, "")]), ...options);
    if (value) select.value = value;
  }
}

find("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  readFilters();
  guarded(() => load(true));
});
find("actions").addEventListener("submit", (event) => event.preventDefault());
find("more").addEventListener("click", () => guarded(() => load(false)));
find("all").addEventListener("change", (event) => {
  chosen.clear();
  if (event.target.checked) for (const { image_hash: hash } of entries) chosen.add(hash);
  showEntries();
});
for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    await guarded(() => act(button.dataset.action));
    button.disabled = false;
    button.focus();
  });
}
i18n.onChange(() => {
  showSelects();
  showEntries();
});
find("empty").hidden = true;
guarded(() => load(true));
