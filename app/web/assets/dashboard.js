/**
 * The dashboard: renders each part of the event stream as it arrives, in the reader's language.
 *
 * @module
 */

import { Chart, decimalsOf, spark } from "./chart.js";
import { texts } from "./dashboard-texts.js";
import { follow } from "./event-stream.js";
import { createI18n } from "./i18n.js";

const MAX_CODES = 3;
const { timezone: zone, currency } = document.querySelector("main").dataset;
const i18n = createI18n(texts);
const { t } = i18n;
const charts = Object.fromEntries(
  [...document.querySelectorAll("[data-chart]")].map((figure) => [figure.dataset.chart, new Chart(figure)]),
);

/** The latest of each part: name -> its JSON. */
const parts = {};
let span = "hour";

// ----- numbers and times as the reader writes them

const whole = (value) => i18n.number(value);
const short = (value) => i18n.number(value, { notation: "compact", maximumFractionDigits: 1 });
const rate = (value) => i18n.number(value / 100, { style: "percent", maximumFractionDigits: 1 });
const exactRate = (value) => i18n.number(value / 100, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const wholeRate = (value) => i18n.number(value / 100, { style: "percent", maximumFractionDigits: 0 });

/** In full as long as it fits into a tile on a phone. */
const compact = (value) => (value < 1e6 ? whole(value) : i18n.number(value, { notation: "compact", maximumSignificantDigits: 4 }));

const inCurrency = (value, options) => i18n.number(value, { style: "currency", currency, currencyDisplay: "narrowSymbol", ...options });

function money(value) {
  // A tile on a phone has no room for more.
  if (value >= 1e6) return inCurrency(value, { notation: "compact", maximumSignificantDigits: 3 });
  if (value >= 10_000) return inCurrency(value, { maximumFractionDigits: 0 });
  // A call may cost a part of a cent.
  const digits = value === 0 || value >= 1 ? 2 : value >= 0.01 ? 4 : 6;
  return inCurrency(value, { minimumFractionDigits: 2, maximumFractionDigits: digits });
}

const moneyAxis = (value, step) => i18n.number(value, { notation: "compact", minimumFractionDigits: step < 1 ? decimalsOf(step) : 0, maximumFractionDigits: step < 1 ? decimalsOf(step) : 1 });

function duration(milliseconds) {
  if (milliseconds >= 1000) return `${i18n.number(milliseconds / 1000, { maximumSignificantDigits: 4, maximumFractionDigits: 2, roundingPriority: "lessPrecision" })}\u00a0s`;
  return `${i18n.number(milliseconds, { maximumFractionDigits: milliseconds < 10 ? 1 : 0 })}\u00a0ms`;
}

function moment(text, options) {
  return i18n.time(new Date(text), { timeZone: zone, ...options });
}

function ago(text) {
  return text === null ? t("none") : moment(text, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
}

const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const LABELS = { "15min": CLOCK, hour: CLOCK, day: { month: "numeric", day: "numeric" } };
const LONG_LABELS = {
  "15min": CLOCK,
  hour: { month: "short", day: "numeric", ...CLOCK },
  day: { weekday: "short", month: "short", day: "numeric" },
};

// ----- rendering

/** Sets a text only if it has changed: screen readers read out every change. */
function put(id, text) {
  const shown = document.getElementById(id);
  if (shown.textContent !== text) shown.textContent = text;
}

function tile(name, figure, note) {
  document.querySelector(`[data-figure="${name}"]`).textContent = figure;
  document.querySelector(`[data-note="${name}"]`).textContent = note;
}

function sparkline(name, points, key) {
  spark(document.querySelector(`[data-spark="${name}"]`), points.map((point) => point[key]));
}

function showTiles() {
  const { today, cache, cascade, hour, day, spending } = parts;
  const quarters = parts["15min"];
  const latest = quarters?.at(-1);
  if (today) {
    const { figures } = today;
    // Noon in UTC is the same date everywhere near it; the day is the service's.
    const day = i18n.time(new Date(`${today.day}T12:00Z`), { dateStyle: "full", timeZone: "UTC" });
    put("day", t("dayInZone", { day, zone }));
    tile("requests", compact(figures.total_requests), latest ? t("noteRequests", { count: compact(latest.requests) }) : "");
    tile("hitRate", rate(figures.cache_hit_rate), t(figures.similar_hits ? "noteHitsSimilar" : "noteHits", { count: compact(figures.cache_hits), similar: compact(figures.similar_hits), money: money(figures.saved_by_similar) }));
    tile("saved", money(figures.cost_saved), cache ? t("noteSaved", { money: money(cache.cost_saved) }) : "");
    const calls = compact(spending?.reduce((sum, { calls }) => sum + calls, 0) ?? 0);
    const spent = { calls, photos: compact(figures.cache_misses), saved: compact(cascade?.calls_saved ?? 0) };
    tile("spent", money(figures.estimated_cost), spending ? t(cascade?.calls_saved ? "noteSpentSaved" : "noteSpent", spent) : "");
    tile("users", compact(figures.unique_users), t("noteUsers", { count: compact(figures.unique_ips) }));
    const errors = Object.entries(today.errors);
    const worst = errors.length ? t("noteErrors", { count: compact(errors[0][1]), code: errors[0][0] }) : "";
    tile("errors", compact(errors.reduce((sum, [, count]) => sum + count, 0)), worst);
    tile("latency", duration(figures.avg_processing_time_ms), latest ? t("noteLatency", { time: duration(latest.latency) }) : "");
  }
  if (cache) tile("images", compact(cache.total_cached_images), t("noteImages", { count: i18n.number(cache.avg_hit_per_image, { maximumFractionDigits: 1 }) }));
  document.getElementById("no-photo").hidden = !cache || !today || cache.total_cached_images + today.figures.total_requests > 0;
  if (hour) {
    for (const [name, key] of Object.entries({ requests: "requests", hitRate: "hit_rate", saved: "money_saved", spent: "money_spent", latency: "latency", errors: "errors" })) {
      sparkline(name, hour, key);
    }
  }
  if (day) sparkline("users", day, "users");
}

function showCharts() {
  const points = parts[span];
  if (!points) return;
  const of = (key) => points.map((point) => point[key]);
  const sum = (key) => points.reduce((total, point) => total + point[key], 0);
  const common = {
    labels: points.map(({ start }) => moment(start, LABELS[span])),
    longLabels: points.map(({ start }) => moment(start, LONG_LABELS[span])),
    tableLabel: t("asTable"),
    timeLabel: t("time"),
  };
  // Without requests there is no rate and no time.
  const known = points.map(({ requests }) => requests > 0);
  charts.requests.update({
    ...common,
    title: t("requests"),
    description: t("describeRequests", { hits: whole(sum("hits")), misses: whole(sum("misses")) }),
    kind: "bars",
    series: [
      { name: t("misses"), tone: "tone-misses", values: of("misses") },
      { name: t("hits"), tone: "tone-hits", values: of("hits") },
    ],
    format: whole,
    axis: short,
  });
  charts.hitRate.update({
    ...common,
    known,
    title: t("hitRate"),
    description: t("describeHitRate", { rate: rate((100 * sum("hits")) / Math.max(1, sum("requests"))) }),
    kind: "line",
    series: [{ name: t("hitRate"), tone: "tone-rate", values: of("hit_rate") }],
    top: 100,
    format: rate,
    axis: wholeRate,
  });
  charts.latency.update({
    ...common,
    known,
    title: t("latency"),
    description: t("describeLatency", { time: duration(Math.max(...of("latency"))) }),
    kind: "line",
    series: [{ name: t("latency"), tone: "tone-latency", values: of("latency") }],
    format: duration,
    axis: duration,
  });
  charts.money.update({
    ...common,
    title: `${t("money")} (${currency})`,
    description: t("describeMoney", { spent: money(sum("money_spent")), saved: money(sum("money_saved")) }),
    kind: "bars",
    series: [
      { name: t("spentShort"), tone: "tone-spent", values: of("money_spent") },
      { name: t("savedShort"), tone: "tone-saved", values: of("money_saved") },
    ],
    format: money,
    axis: moneyAxis,
  });
}

function element(name, { text = null, className = "", colour = null, title = null, children = [] } = {}) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (className) made.className = className;
  // Set by a script: the page's policy refuses inline styles.
  if (colour) made.style.background = `var(--category-${colour})`;
  if (title) made.title = title;
  made.append(...children);
  return made;
}

/** Gives a table one row for each item; `cells` returns the options of a row's elements. */
function fill(id, items, cells) {
  const rows = items.map((item) => element("tr", { children: cells(item).map((cell) => element("td", cell)) }));
  document.getElementById(id).replaceChildren(...rows);
}

function categoryName(category) {
  const names = parts.categories?.find((each) => each.category === category);
  return names ? names[i18n.language === "zh" ? "chinese" : "english"] : category;
}

function named(category) {
  return [element("span", { className: "swatch", colour: category }), categoryName(category)];
}

function showCategories() {
  const shares = parts.categories ?? [];
  const largest = Math.max(1, ...shares.map(({ count }) => count));
  fill("categories", shares, ({ category, count, percentage }) => {
    const bar = element("div", { colour: category });
    bar.style.width = `${(100 * count) / largest}%`;
    return [
      { children: named(category), title: categoryName(category) },
      { className: "share", children: [element("div", { className: "track", children: [bar] })] },
      { className: "number", text: compact(count) },
      { className: "number muted", text: exactRate(percentage) },
    ];
  });
}

/**
 * A hash of which a screen shows the beginning alone. The whole is asked of the API when it is wanted, so that it gives
 * it to those who may have it.
 */
function copyButton(beginning) {
  const button = element("button", { text: beginning, className: "copy", title: t("copyHash") });
  button.type = "button";
  button.addEventListener("click", async () => {
    const isCopied = await copyHash(beginning).catch(() => false);
    button.title = t(isCopied ? "copied" : "notCopied");
    button.classList.toggle("copied", isCopied);
    put("copy-status", button.title);
  });
  return button;
}

async function copyHash(beginning) {
  const answer = await fetch("api/v1/stats/top-images?limit=20");
  if (!answer.ok) return false;
  const { data } = await answer.json();
  const found = data.find(({ image_hash: hash }) => hash.startsWith(beginning));
  if (!found) return false;
  // Without HTTPS, browsers have no clipboard to write to; that ends in an exception.
  await navigator.clipboard.writeText(found.image_hash);
  return true;
}

function showTables() {
  const { images = [], users = [] } = parts;
  fill("images", images, ({ hash, category, hit_count: count }) => [
    { className: "hash", children: [copyButton(hash)] },
    { children: named(category), title: categoryName(category) },
    { className: "number", text: compact(count) },
  ]);
  fill("users", users, ({ user_id: user, request_count: count, cache_hit_rate: hitRate }) => [
    { text: user, title: user },
    { className: "number", text: compact(count) },
    { className: "number", text: exactRate(hitRate) },
  ]);
  document.getElementById("images-empty").hidden = images.length > 0;
  document.getElementById("users-empty").hidden = users.length > 0;
}

function showSpending() {
  const spending = parts.spending ?? [];
  fill("spending", spending, ({ name, calls, input_tokens: input, output_tokens: output, cost }) => [
    { text: name, title: name },
    { className: "number", text: compact(calls) },
    { className: "number", text: compact(input + output) },
    { className: "number", text: money(cost) },
  ]);
  document.getElementById("spending-empty").hidden = spending.length > 0;
}

function showAccuracy() {
  const accuracy = parts.accuracy ?? [];
  const bound = (value) => i18n.number(100 * value, { maximumFractionDigits: 0 });
  fill("accuracy", accuracy, ({ model, category, photos, accuracy: share, low, high }) => [
    { text: model, title: model },
    category === null ? { text: t("allCategories") } : { children: named(category), title: categoryName(category) },
    { className: "number", text: compact(photos) },
    { className: "number", text: t("interval", { share: wholeRate(100 * share), low: bound(low), high: bound(high) }) },
  ]);
  document.getElementById("accuracy-empty").hidden = accuracy.length > 0;
}

function badge(id, isGood, text) {
  const shown = document.getElementById(id);
  shown.className = `badge ${isGood ? "good" : "bad"}`;
  shown.textContent = text;
}

function showErrors() {
  const codes = Object.entries(parts.today?.errors ?? {}).slice(0, MAX_CODES);
  const rows = codes.map(([code, count]) =>
    element("div", {
      className: "code",
      children: [
        element("dt", { text: t("errorsToday", { code }) }),
        element("dd", { className: "number", text: compact(count) }),
      ],
    }),
  );
  for (const old of document.querySelectorAll(".health .code")) old.remove();
  document.querySelector(".health").append(...rows);
}

function showHealth() {
  const { health } = parts;
  document.getElementById("outage").hidden = !health || health.database !== "disconnected";
  if (!health) return;
  const { model } = health;
  badge("database", health.database === "connected", t(health.database));
  badge("model", model.available, t(model.available ? "available" : "unavailable"));
  put("model-name", model.model);
  put("breaker", t(`breaker_${model.breaker}`));
  put("last-success", ago(model.last_success_at));
  put("last-error", model.last_error_code === null ? t("none") : `${model.last_error_code}, ${ago(model.last_error_at)}`);
}

const SHOWN_BY = {
  today: [showTiles, showErrors],
  cache: [showTiles],
  "15min": [showTiles, showCharts],
  hour: [showTiles, showCharts],
  day: [showTiles, showCharts],
  // Other tables show category names, which come with this part.
  categories: [showCategories, showTables, showAccuracy],
  accuracy: [showAccuracy],
  images: [showTables],
  users: [showTables],
  spending: [showTiles, showSpending],
  cascade: [showTiles],
  health: [showHealth, showConnection],
};

function showAll() {
  put("zone", t("zone", { zone }));
  showTiles();
  showCharts();
  showCategories();
  showTables();
  showSpending();
  showAccuracy();
  showErrors();
  showHealth();
  showConnection();
}

// ----- connection

let isConnected = false;
let heardAt = new Date();

function showConnection() {
  const isNew = Object.keys(parts).length === 0;
  document.body.classList.toggle("stale", !isConnected || parts.health?.database === "disconnected");
  document.getElementById("live").className = `dot ${isConnected ? "on" : isNew ? "" : "off"}`;
  const time = i18n.time(heardAt, { timeStyle: "medium", timeZone: zone });
  put("live-text", isConnected ? t("live") : isNew ? t("connecting") : t("lost", { time }));
  put("live-time", isConnected ? time : "");
}

for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    span = button.dataset.span;
    for (const each of document.querySelectorAll("[data-span]")) each.setAttribute("aria-pressed", String(each === button));
    showCharts();
  });
}
i18n.onChange(showAll);
follow(
  "dashboard/events",
  Object.keys(SHOWN_BY),
  (name, content) => {
    parts[name] = content;
    for (const show of SHOWN_BY[name]) show();
  },
  (isOpen) => {
    isConnected = isOpen;
    if (isOpen) heardAt = new Date();
    showConnection();
  },
);
