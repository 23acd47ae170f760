// Small plots as inline SVG: bars of shares, intervals, curves. Colours come from the style sheet by class.

const NS = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "circle", "text", "polyline", "title"].includes(tag);
  const made = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)}%`);
export const signed = (value) => (value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`);

function picture(width, height, label, kind) {
  return el("svg", { viewBox: `0 0 ${width} ${height}`, class: `plot ${kind}`, role: "img", "aria-label": label, preserveAspectRatio: "xMinYMid" });
}

/** One bar cut into parts `{name, count, kind}`, each as wide as its share; a legend names them all. */
export function stacked(parts, label, wide = 600) {
  const total = parts.reduce((sum, part) => sum + part.count, 0);
  const svg = picture(wide, 22, `${label}: ${parts.map((part) => `${part.name} ${part.count}`).join(", ")}`, "stacked");
  let x = 0;
  for (const part of parts) {
    const width = total ? (wide * part.count) / total : 0;
    if (width <= 0) continue;
    svg.append(el("rect", { x, y: 0, width: Math.max(0, width - 1), height: 22, class: `fill ${part.kind}` },
      el("title", {}, `${part.name}: ${part.count} (${percent(part.count / total)})`)));
    if (width > 44) svg.append(el("text", { x: x + width / 2, y: 15.5, class: "inside" }, percent(part.count / total)));
    x += width;
  }
  const legend = el("p", { class: "legend" }, parts.map((part) => el("span", { class: part.kind },
    `${part.name} `, el("b", {}, String(part.count)))));
  return el("div", {}, svg, legend);
}

/** A value with its interval on the axis from `from` to `to`, with marks at `marks`. */
export function interval({ value, low, high }, { from, to, marks = [], label }) {
  const at = (v) => 6 + (228 * (Math.min(Math.max(v, from), to) - from)) / (to - from);
  const told = value === null ? "unknown" : `${value.toFixed(2)}${low === null ? "" : `, from ${low.toFixed(2)} to ${high.toFixed(2)}`}`;
  const svg = picture(240, 18, `${label}: ${told}`, "interval");
  svg.append(el("line", { x1: at(from), x2: at(to), y1: 9, y2: 9, class: "axis" }));
  for (const mark of marks) svg.append(el("line", { x1: at(mark), x2: at(mark), y1: 3, y2: 15, class: "mark" }));
  if (value === null) return svg;
  if (low !== null) svg.append(el("line", { x1: at(low), x2: at(high), y1: 9, y2: 9, class: "range" }));
  svg.append(el("circle", { cx: at(value), cy: 9, r: 4.5, class: "value" }, el("title", {}, told)));
  return svg;
}

/** How often each of 1 to 5 was given, as one bar from worst to best. */
export function scale(counts, label) {
  const total = counts.reduce((a, b) => a + b, 0);
  const svg = picture(240, 18, `${label}: ${counts.map((count, n) => `${n + 1} given ${count} times`).join(", ")}`, "stacked");
  let x = 0;
  counts.forEach((count, n) => {
    const width = total ? (240 * count) / total : 0;
    if (!width) return;
    svg.append(el("rect", { x, y: 0, width: Math.max(0, width - 1), height: 18, class: `fill score${n + 1}` },
      el("title", {}, `${n + 1}: ${count} (${percent(count / total)})`)));
    if (width > 16) svg.append(el("text", { x: x + width / 2, y: 13, class: "inside" }, String(n + 1)));
    x += width;
  });
  return svg;
}

/** Precision and recall over the thresholds of a score; gaps where they are unknown. `levels`: what is in force, what is advised. */
export function curves(points, levels, label) {
  const [left, top, width, height] = [42, 8, 300, 110];
  const xs = points.map((point) => point.threshold);
  const [from, to] = [Math.min(...xs, ...levels.map((one) => one.at)), Math.max(...xs, ...levels.map((one) => one.at))];
  const x = (v) => left + (to > from ? (width * (v - from)) / (to - from) : width / 2);
  const y = (v) => top + height * (1 - v);
  const svg = picture(left + width + 12, top + height + 20, label, "curves");
  for (const share of [0, 0.5, 1]) {
    svg.append(el("line", { x1: left, x2: left + width, y1: y(share), y2: y(share), class: "mark" }),
      el("text", { x: left - 5, y: y(share) + 4, class: "tick end" }, percent(share)));
  }
  for (const v of to > from ? [from, (from + to) / 2, to] : [from]) {
    svg.append(el("text", { x: x(v), y: top + height + 14, class: "tick" }, Number(v.toPrecision(3)).toString()));
  }
  for (const { at, name, kind } of levels) {
    svg.append(el("line", { x1: x(at), x2: x(at), y1: top, y2: top + height, class: `level ${kind}` },
      el("title", {}, `${name} ${Number(at.toPrecision(4))}`)));
  }
  for (const what of ["precision", "recall"]) {
    let run = [];
    const flush = () => {
      if (run.length > 1) svg.append(el("polyline", { points: run.map((p) => `${x(p.threshold)},${y(p[what])}`).join(" "), class: what }));
      else if (run.length) svg.append(el("circle", { cx: x(run[0].threshold), cy: y(run[0][what]), r: 2.5, class: what }));
      run = [];
    };
    for (const point of points) {
      if (point[what] === null) flush();
      else run.push(point);
    }
    flush();
  }
  return svg;
}
