/**
 * Small charts in SVG: stacked bars and lines over time, with a cursor for mouse, finger and keyboard, and a table.
 *
 * @module
 */

const SVG = "http://www.w3.org/2000/svg";
// On the left, at least: long labels of the axis get more.
const MARGIN = { top: 8, right: 4, bottom: 20, left: 44 };
const LABEL_WIDTH = 64;
const DIGIT_WIDTH = 6.6;

/**
 * @typedef {object} Series
 * @property {string} name   in the reader's language
 * @property {string} tone   CSS class that gives the colour
 * @property {number[]} values
 */

/**
 * @typedef {object} ChartData
 * @property {string} title
 * @property {string} description  one sentence for screen readers
 * @property {string} tableLabel   what opens the table
 * @property {string} timeLabel    head of the table's first column
 * @property {string[]} labels     short, for the axis
 * @property {string[]} longLabels for the cursor and the table
 * @property {"bars" | "line"} kind  bars are stacked
 * @property {Series[]} series
 * @property {boolean[]} [known]   false: a line has a gap there
 * @property {number} [top]        the scale's end, where it is fixed
 * @property {(value: number) => string} format
 * @property {(value: number, step: number) => string} axis  the same, as short as can be; `step` is between two marks
 */

/** @returns {SVGElement} */
function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function html(name, className = "", text = null) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}

/** Three to five round numbers from 0 to at least `max`. */
export function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const rough = max / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const count = Math.ceil(max / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, number) => Number((number * step).toPrecision(12)));
}

/** How many decimals tell multiples of `step` apart: 0 for 50, 1 for 0.5, 4 for 0.0025. */
export function decimalsOf(step) {
  let decimals = 0;
  // Binary fractions are a little beside the decimal ones.
  const isWhole = (value) => Math.abs(value - Math.round(value)) <= 1e-6 * value;
  while (decimals < 12 && !isWhole(step * 10 ** decimals)) decimals++;
  return decimals;
}

let charts = 0;

/** A chart in `figure`; show data with `update`, again whenever they change. */
export class Chart {
  constructor(figure) {
    this.id = `chart-${++charts}`;
    this.figure = figure;
    this.at = null;
    const caption = html("figcaption");
    this.heading = html("h3");
    this.readout = html("output", "readout");
    caption.append(this.heading, this.readout);
    this.plot = html("div", "plot");
    this.svg = svg("svg", { role: "img", tabindex: "0", "aria-labelledby": `${this.id}-title`, "aria-describedby": `${this.id}-description` });
    this.plot.append(this.svg);
    this.details = html("details");
    this.summary = html("summary");
    this.table = html("div", "scroll");
    this.details.append(this.summary, this.table);
    figure.replaceChildren(caption, this.plot, this.details);

    new ResizeObserver(() => this.#draw()).observe(this.plot);
    this.details.addEventListener("toggle", () => this.#fillTable());
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerdown", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#moveTo(null));
    this.svg.addEventListener("blur", () => this.#moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {ChartData} data */
  update(data) {
    this.data = data;
    if (this.at !== null && this.at >= data.labels.length) this.at = null;
    this.heading.textContent = data.title;
    this.summary.textContent = data.tableLabel;
    this.#draw();
    this.#fillTable();
  }

  #key(event) {
    if (!this.data) return;
    const last = this.data.labels.length - 1;
    const at = this.at ?? last + (event.key === "ArrowLeft" ? 1 : 0);
    const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#moveTo(target === null ? null : Math.min(last, Math.max(0, target)));
  }

  #point(x) {
    if (!this.data) return;
    const count = this.data.labels.length;
    const number = Math.floor(((x - this.left) / (this.width - this.left - MARGIN.right)) * count);
    this.#moveTo(number >= 0 && number < count ? number : null);
  }

  #moveTo(at) {
    if (at === this.at) return;
    this.at = at;
    this.#draw();
  }

  #draw() {
    const { data } = this;
    if (!data) return;
    const { width, height } = this.plot.getBoundingClientRect();
    if (width === 0) return;
    this.width = width;
    const count = data.labels.length;
    const stacked = data.labels.map((_, at) => data.series.reduce((sum, each) => sum + each.values[at], 0));
    const marks = ticks(data.top ?? Math.max(...stacked));
    const top = data.top ?? marks.at(-1);
    const axis = marks.map((mark) => data.axis(mark, marks[1]));
    const left = Math.max(MARGIN.left, 12 + DIGIT_WIDTH * Math.max(...axis.map((label) => label.length)));
    this.left = left;
    const inner = { width: width - left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const slot = inner.width / count;
    const x = (at) => left + (at + 0.5) * slot;
    const y = (value) => MARGIN.top + inner.height * (1 - value / top);

    const parts = [
      svg("title", { id: `${this.id}-title` }, data.title),
      svg("desc", { id: `${this.id}-description` }, data.description),
    ];
    for (const [number, mark] of marks.entries()) {
      if (mark > top) continue;
      const at = Math.round(y(mark)) + 0.5;
      parts.push(svg("line", { class: "rule", x1: left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(svg("text", { x: left - 8, y: at + 4, "text-anchor": "end", class: "mark" }, axis[number]));
    }
    // From the present backwards, so that the newest always has its label.
    const every = Math.max(1, Math.ceil((LABEL_WIDTH * count) / inner.width));
    for (let at = count - 1; at >= 0; at -= every) {
      const anchor = x(at) + LABEL_WIDTH / 3 > width ? "end" : x(at) - LABEL_WIDTH / 3 < left ? "start" : "middle";
      const edge = { end: width - MARGIN.right, start: left, middle: x(at) }[anchor];
      parts.push(svg("text", { x: edge, y: height - 4, "text-anchor": anchor }, data.labels[at]));
    }
    if (this.at !== null) {
      parts.push(svg("rect", { class: "cursor", x: left + this.at * slot, y: MARGIN.top, width: slot, height: inner.height }));
    }
    parts.push(...(data.kind === "bars" ? this.#bars(x, y, slot) : this.#lines(x, y)));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    this.#read();
  }

  #bars(x, y, slot) {
    const wide = Math.max(1, Math.min(slot * 0.72, slot - 2, 26));
    const below = this.data.labels.map(() => 0);
    const parts = [];
    for (const { tone, values } of this.data.series) {
      values.forEach((value, at) => {
        if (value <= 0) return;
        const upper = y(below[at] + value);
        const height = Math.max(1, y(below[at]) - upper);
        parts.push(svg("rect", { class: tone, x: x(at) - wide / 2, y: upper, width: wide, height, rx: Math.min(2, wide / 4) }));
        below[at] += value;
      });
    }
    return parts;
  }

  #lines(x, y) {
    const known = (at) => this.data.known?.[at] ?? true;
    const parts = [];
    for (const { tone, values } of this.data.series) {
      let path = "";
      values.forEach((value, at) => {
        if (!known(at)) return;
        path += `${at > 0 && known(at - 1) ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
        const alone = !(at > 0 && known(at - 1)) && !(at + 1 < values.length && known(at + 1));
        if (alone || at === this.at) parts.push(svg("circle", { class: `point ${tone}`, cx: x(at), cy: y(value), r: 3 }));
      });
      parts.unshift(svg("path", { class: `line ${tone}`, d: path }));
    }
    return parts;
  }

  /** The values under the cursor; without a cursor, the legend. */
  #read() {
    const { data, at } = this;
    const pieces = [];
    if (at !== null) pieces.push(html("span", "", data.longLabels[at]));
    for (const { name, tone, values } of data.series) {
      const piece = html("span");
      piece.append(html("i", `key ${tone}`), name);
      if (at !== null) piece.append(" ", html("b", "", data.known?.[at] === false ? "–" : data.format(values[at])));
      if (at !== null || data.series.length > 1) pieces.push(piece);
    }
    // Screen readers read out every change, so the same text is not set again.
    const read = pieces.map((piece) => piece.textContent).join("\n");
    if (read !== this.read) this.readout.replaceChildren(...pieces);
    this.read = read;
  }

  #fillTable() {
    if (!this.details.open || !this.data) return;
    const { data } = this;
    const table = html("table");
    const head = table.createTHead().insertRow();
    head.append(html("th", "", data.timeLabel), ...data.series.map(({ name }) => html("th", "number", name)));
    const body = table.createTBody();
    for (let at = data.labels.length - 1; at >= 0; at--) {
      const row = body.insertRow();
      row.append(html("td", "", data.longLabels[at]));
      for (const { values } of data.series) {
        row.append(html("td", "number", data.known?.[at] === false ? "–" : data.format(values[at])));
      }
    }
    this.table.replaceChildren(table);
  }
}

/** A sparkline: the shape of the last values, as high as its box, without a scale. */
export function spark(box, values) {
  const top = Math.max(...values, 0) || 1;
  const points = values.map((value, at) => `${((at / (values.length - 1)) * 100).toFixed(1)} ${(29 - (value / top) * 27).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  const picture = svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(svg("path", { class: "area", d: `${line}L100 30L0 30Z` }), svg("path", { d: line }));
  box.replaceChildren(picture);
}
