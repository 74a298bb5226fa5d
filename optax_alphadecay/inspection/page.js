"use strict";
// All text comes in through textContent: a name is never read as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0b5cad", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#be185d"];
const MEASURES = {
  alpha: "alpha (median fit)", random_alpha: "alpha of a random matrix", alpha_goodness_of_fit: "alpha (goodness of fit)",
  ks_distance: "KS distance", alpha_fix_finger: "alpha (fix-finger)", alpha_hat: "alpha-hat", stable_rank: "stable rank",
  entropy: "entropy", spectral_norm: "spectral norm", frobenius_norm: "Frobenius norm", beyond_edge: "spikes", traps: "traps",
  ratio: "ratio", decay: "decay",
};
const DETAILS = { shape: "shape", dtype: "stored as", ...MEASURES, xmin: "xmin (goodness of fit)", mp_edge: "Marchenko-Pastur edge",
  note: "note" };
const state = { checkpoint: 0, module: null, sort: null, down: false, measure: "alpha" };

const find = (selector) => document.querySelector(selector);
const known = (value) => value !== null && value !== undefined && value !== -1;
function show(value, name) {
  if (!known(value) || value === "") return "–";
  if (Array.isArray(value)) return value.join(" × ");
  if (typeof value !== "number" || ["beyond_edge", "traps", "layer"].includes(name)) return String(value);
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
function element(tag, attributes = {}, ...children) {
  const node = ["svg", "g", "line", "path", "circle", "text", "title", "rect"].includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
  return node;
}
// Long names may break behind their slashes.
const breakable = (name) => name.split(/(?<=[/])/).flatMap((part) => [part, element("wbr")]);
const current = () => data.checkpoints[state.checkpoint];
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const types = (modules) => [...new Set(modules.map((module) => module.type))];
const line = (index) => ({ colour: COLOURS[index % COLOURS.length], dash: ["", "6 3", "2 2"][Math.floor(index / COLOURS.length) % 3] });

function legend(node, entries) {
  node.replaceChildren(...entries.map(([text, { colour, dash }]) => element("span", {}, element("svg", { viewBox: "0 0 24 10" },
    element("line", { x1: 0, x2: 24, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash || "" })), text)));
}
// Axes that do not cross the data: x and y map values to pixels, ticks are [value, label].
function plot(node, height, { x, y, xName, yName, label }) {
  const width = Math.max(280, node.clientWidth || 640), left = 46, right = 12, top = 10, bottom = 40;
  const scale = (axis, from, to) => (value) => from + ((value - axis.min) / (axis.max - axis.min || 1)) * (to - from);
  const px = scale(x, left, width - right), py = scale(y, height - bottom, top);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const [value, text] of y.ticks) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: py(value), y2: py(value) }));
    svg.append(element("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, text));
  }
  let taken = -Infinity;
  for (const [value, text] of x.ticks) {
    const half = text.length * 3.4, at = Math.min(Math.max(px(value), half), width - half);
    if (at - half < taken + 6) continue;
    taken = at + half;
    svg.append(element("text", { x: at, y: height - bottom + 16, "text-anchor": "middle" }, text));
  }
  svg.append(element("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
  svg.append(element("text", { transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yName));
  node.replaceChildren(svg);
  return { svg, px, py };
}
function linearAxis(values) {
  const low = Math.min(...values), high = Math.max(...values), pad = (high - low) * 0.06 || 0.5, min = low - pad, max = high + pad;
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((size) => (max - min) / size <= 6) || (max - min) / 5;
  const ticks = [];
  for (let value = Math.ceil(min / step) * step; value <= max; value += step) ticks.push([value, String(Number(value.toFixed(2)))]);
  return { min, max, ticks };
}
function logAxis(values) {
  const min = Math.min(...values), max = Math.max(...values), pad = (max - min) * 0.04 || 0.2, ticks = [];
  for (let power = Math.ceil(min - pad); power <= max + pad; power++) ticks.push([power, power >= -3 && power <= 3 ? String(Number((10 ** power).toPrecision(1))) : `1e${power}`]);
  if (ticks.length < 2) for (const value of [min, max]) ticks.push([value, String(Number((10 ** value).toPrecision(2)))]);
  return { min: min - pad, max: max + pad, ticks: ticks.sort((a, b) => a[0] - b[0]) };
}
function path(svg, points, { colour, dash }, width, opacity = 1) {
  if (points.length > 1) svg.append(element("path", { d: "M" + points.map((point) => point.map((value) => value.toFixed(1)).join(" ")).join("L"),
    fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash || "", opacity }));
}
function dot(svg, x, y, radius, colour, title, click) {
  svg.append(element("circle", { class: "hit", cx: x, cy: y, r: radius, fill: colour, tabindex: 0, role: "button", "aria-label": title, click }, element("title", {}, title)));
}
const titleOf = (module) => `${module.name}: alpha ${show(module.alpha)}, random ${show(module.random_alpha)}, ratio ${show(module.ratio)}`;

function drawLayers() {
  const modules = current().modules.filter((module) => known(module.alpha) && module.layer !== null), section = find("#layers");
  section.hidden = modules.length === 0;
  if (section.hidden) return;
  const layers = [...new Set(modules.map((module) => module.layer))].sort((a, b) => a - b);
  const x = { min: layers[0] - 0.3, max: layers[layers.length - 1] + 0.3, ticks: layers.map((layer) => [layer, String(layer)]) };
  const { svg, px, py } = plot(section.querySelector(".figure"), 300, { x, y: linearAxis(modules.map((module) => module.alpha)),
    xName: "layer", yName: "alpha", label: "Alpha by layer, one line a type of module" });
  types(modules).forEach((type, index) => {
    const own = modules.filter((module) => module.type === type), style = line(index);
    path(svg, layers.map((layer) => [layer, mean(own.filter((module) => module.layer === layer).map((module) => module.alpha))])
      .filter((point) => point[1] !== null).map((point) => [px(point[0]), py(point[1])]), style, 1.5, 0.7);
    for (const module of own) dot(svg, px(module.layer), py(module.alpha), 4, style.colour, titleOf(module), () => choose(module.name, true));
  });
  legend(section.querySelector(".legend"), types(modules).map((type, index) => [type, line(index)]));
}
function heatColour(share) { // light to dark blue; the text turns white on the dark half
  const mix = (from, to) => Math.round(from + (to - from) * share);
  return [`rgb(${mix(236, 8)}, ${mix(244, 48)}, ${mix(252, 107)})`, share > 0.5 ? "#fff" : "#1b1f24"];
}
function drawHeat() {
  const modules = current().modules.filter((module) => module.layer !== null), section = find("#heat");
  section.hidden = modules.length === 0;
  if (section.hidden) return;
  const layers = [...new Set(modules.map((module) => module.layer))].sort((a, b) => a - b);
  const values = modules.map((module) => module[state.measure]).filter(known), low = Math.min(...values), high = Math.max(...values);
  const cell = (type, layer) => {
    const own = modules.filter((module) => module.type === type && module.layer === layer);
    const value = mean(own.map((module) => module[state.measure]).filter(known));
    if (!own.length) return element("td");
    const [back, ink] = value === null ? ["#fff", "#1b1f24"] : heatColour((value - low) / (high - low || 1));
    const name = own.length > 1 ? `${type} of layer ${layer}, mean of ${own.length}` : own[0].name;
    const title = `${name}: ${MEASURES[state.measure]} ${show(value)}`;
    return element("td", { style: `background:${back};color:${ink}` }, element("button", { type: "button", title, "aria-label": title,
      click: () => choose(own[0].name, true) }, value === null ? "–" : value.toPrecision(3).includes("e") ? show(value) : value.toPrecision(3).slice(0, 5)));
  };
  section.querySelector("table").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", {}, "layer"), ...layers.map((layer) => element("th", {}, String(layer))))),
    element("tbody", {}, ...types(modules).map((type) => element("tr", {}, element("th", {}, ...breakable(type)), ...layers.map((layer) => cell(type, layer))))));
}
function drawDetail() {
  const module = current().modules.find((one) => one.name === state.module), section = find("#detail");
  section.hidden = !module;
  if (!module) return;
  find("#chosen").replaceChildren(...breakable(module.name));
  const logs = module.spectrum.map(([value, share]) => [Math.log10(value), Math.log10(share)]);
  const figure = section.querySelector(".figure"), entries = [];
  if (logs.length) {
    const edge = known(module.mp_edge) && module.mp_edge > 0 ? [Math.log10(module.mp_edge)] : [];
    // From the median on: smaller eigenvalues may lie many decades below and have no part in any tail.
    const shown = logs.filter((point) => point[1] <= Math.log10(0.9));
    const inView = shown.length > 4 ? shown : logs, y = logAxis(inView.map((point) => point[1]));
    const x = logAxis([...inView.map((point) => point[0]), ...edge]);
    const { svg, px, py } = plot(figure, 320, { x, y, xName: "eigenvalue", yName: "share", label: "Spectrum and fitted power laws" });
    if (edge.length) {
      const style = { colour: "#57606a", dash: "3 3" };
      path(svg, [[px(edge[0]), py(y.min)], [px(edge[0]), py(y.max)]], style, 1.5);
      entries.push(["edge of a random matrix", style]);
    }
    for (const point of inView) svg.append(element("circle", { cx: px(point[0]), cy: py(point[1]), r: 2.4, fill: "#1b1f24", opacity: 0.6 },
      element("title", {}, `${show(10 ** point[0])}, share ${show(10 ** point[1])}`)));
    ["median", "goodness of fit", "fix-finger"].forEach((name, index) => {
      const [alpha, xmin, share] = module.fits[index];
      if (!known(alpha) || !known(xmin) || !(share > 0)) return;
      const start = [Math.log10(xmin), Math.log10(share)], last = logs[0][0];
      let end = [last, start[1] - (alpha - 1) * (last - start[0])];
      if (end[1] < y.min) end = [start[0] + (start[1] - y.min) / (alpha - 1), y.min];
      path(svg, [start, end].map((point) => [px(point[0]), py(point[1])]), { ...line(index), dash: ["", "7 4", "2 3"][index] }, 2);
      entries.push([`${name}: alpha ${show(alpha)}`, { ...line(index), dash: ["", "7 4", "2 3"][index] }]);
    });
  } else figure.replaceChildren(element("p", {}, "The spectrum is not finite."));
  legend(section.querySelector(".legend"), entries);
  section.querySelector("dl").replaceChildren(...Object.entries(DETAILS).filter(([name]) => name !== "note" || module.note)
    .map(([name, text]) => element("div", {}, element("dt", {}, text), element("dd", {}, show(module[name], name)))));
}
function drawTable() {
  const wanted = find("#filter").value.toLowerCase(), names = Object.keys(MEASURES);
  const modules = current().modules.filter((module) => module.name.toLowerCase().includes(wanted));
  if (state.sort) modules.sort((a, b) => {
    const [first, second] = [a[state.sort], b[state.sort]];
    if (!known(first) || !known(second)) return known(second) - known(first);
    return (first < second ? -1 : first > second ? 1 : 0) * (state.down ? -1 : 1);
  });
  find("#count").textContent = `${modules.length} of ${current().modules.length}`;
  const heading = (name, text) => element("th", { scope: "col", "data-heading": text, "aria-sort": state.sort !== name ? "none" : state.down ? "descending" : "ascending" },
    element("button", { type: "button", click: () => { state.down = state.sort === name && !state.down; state.sort = name; drawTable(); } },
      text + (state.sort === name ? (state.down ? " ↓" : " ↑") : "")));
  find("#modules table").replaceChildren(
    element("thead", {}, element("tr", {}, heading("name", "module"), element("th", { "data-heading": "shape" }, element("span", {}, "shape")), ...names.map((name) => heading(name, MEASURES[name])))),
    element("tbody", {}, ...modules.map((module) => element("tr", { class: module.name === state.module ? "chosen" : "", click: () => choose(module.name, true) },
      element("td", {}, element("button", { type: "button" }, ...breakable(module.name))), element("td", {}, show(module.shape)),
      ...names.map((name) => element("td", {}, show(module[name], name)))))));
}
function drawTrajectories() {
  const section = find("#trajectories"), all = data.checkpoints;
  section.hidden = all.length < 2;
  if (section.hidden) return;
  const byName = new Map();
  all.forEach((checkpoint, at) => checkpoint.modules.forEach((module) => {
    if (!byName.has(module.name)) byName.set(module.name, { type: module.type, alphas: all.map(() => null) });
    byName.get(module.name).alphas[at] = module.alpha;
  }));
  const rows = [...byName], finite = rows.flatMap(([, row]) => row.alphas.filter(known)), kinds = [...new Set(rows.map(([, row]) => row.type))];
  if (finite.length) {
    const x = { min: -0.2, max: all.length - 0.8, ticks: all.map((checkpoint, at) => [at, checkpoint.label.slice(-24)]) };
    const { svg, px, py } = plot(section.querySelector(".figure"), 300, { x, y: linearAxis(finite), xName: "checkpoint", yName: "alpha",
      label: "Alpha of every module from checkpoint to checkpoint" });
    const points = (alphas) => alphas.map((alpha, at) => [at, alpha]).filter((point) => known(point[1])).map(([at, alpha]) => [px(at), py(alpha)]);
    for (const [, row] of rows) path(svg, points(row.alphas), line(kinds.indexOf(row.type)), 1, 0.35);
    kinds.forEach((type, index) => {
      const own = rows.filter(([, row]) => row.type === type);
      path(svg, points(all.map((_, at) => mean(own.map(([, row]) => row.alphas[at]).filter(known)))), line(index), 3);
    });
    legend(section.querySelector(".legend"), kinds.map((type, index) => [type, line(index)]));
  }
  section.querySelector("table").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", {}, "module"), ...all.map((checkpoint) => element("th", {}, checkpoint.label)), element("th", {}, "change"))),
    element("tbody", {}, ...rows.map(([name, row]) => {
      const first = row.alphas[0], last = row.alphas[row.alphas.length - 1];
      return element("tr", {}, element("td", {}, ...breakable(name)), ...row.alphas.map((alpha) => element("td", {}, show(alpha))),
        element("td", {}, known(first) && known(last) ? show(last - first) : "–"));
    })));
}
function drawRest() {
  const checkpoint = current();
  find("#source").replaceChildren(...breakable(checkpoint.source));
  find("#summary ul").replaceChildren(...checkpoint.summary.map((sentence) => element("li", {}, ...breakable(sentence))));
  find("#left-out").hidden = checkpoint.left_out.length === 0;
  find("#left-out summary").textContent = `${checkpoint.left_out.length} tensors left out, and why`;
  find("#left-out table").replaceChildren(...checkpoint.left_out.map(([name, shape, dtype, reason]) =>
    element("tr", {}, ...[name, shape.join(" × "), dtype, reason].map((text) => element("td", {}, ...breakable(text))))));
}
function choose(name, scroll) {
  state.module = name;
  drawDetail();
  drawTable();
  if (scroll) find("#detail").scrollIntoView({ block: "nearest" });
}
function draw() {
  if (!current().modules.some((module) => module.name === state.module)) state.module = current().modules[0]?.name ?? null;
  drawRest(); drawTrajectories(); drawLayers(); drawHeat(); drawDetail(); drawTable();
}
find("#checkpoint").append(...data.checkpoints.map((checkpoint, at) => element("option", { value: at }, checkpoint.label)));
find("#choose").hidden = data.checkpoints.length < 2;
find("#checkpoint").addEventListener("change", (event) => { state.checkpoint = Number(event.target.value); draw(); });
find("#measure").append(...Object.entries(MEASURES).map(([name, text]) => element("option", { value: name }, text)));
find("#measure").addEventListener("change", (event) => { state.measure = event.target.value; drawHeat(); });
find("#filter").addEventListener("input", drawTable);
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.classList.contains("hit")) event.target.dispatchEvent(new Event("click")); });
window.addEventListener("beforeprint", () => { find("#left-out details").open = true; });
let resized;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(draw, 100); });
draw();
