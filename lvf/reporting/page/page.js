"use strict";
const PLOTS = JSON.parse(document.getElementById("plots").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, text, children = []) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// Blocks of the page are JSON or a script, gzip, base64.
function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

const vega = unpack("vega").text().then((text) => {
  const script = element("script", text);
  document.head.append(script);
});

// --- plots: Vega-Lite has their data, controls, legends and tooltips; here are width and colours
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const OTHERS = ["#1b87c9", "#d0661c", "#12916a", "#b5830a", "#c05c99", "#4f9fb3", "#a34e3c", "#6f7f2a"];
const COLOURS = {
  light: ["#8a8f98", "#111111", "#cf7fd0", "#a869cf", "#7d5fcb", "#5b50be", "#3c3fae", "#1d2a86", ...OTHERS],
  dark: ["#8a8f98", "#ffffff", "#f0b4ec", "#d9a0f5", "#bd97ff", "#9f9bff", "#86a8ff", "#7fc4ff", ...OTHERS],
};

// a method looks alike in all plots: the base, which comes first, has no cost
const SHAPES = ["circle", "square", "triangle-up", "cross", "diamond", "triangle-down", "triangle-right", "triangle-left"];

function look(narrow, first) {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: soft, titleColor: soft, titleFontWeight: 500, gridColor: line, gridOpacity: 0.6, domainColor: line, tickColor: line, tickCount: 5 },
    header: { labelColor: ink, labelFontSize: 13, labelFontWeight: 600 },
    legend: { labelColor: ink, labelFontSize: 12, symbolSize: 90, labelLimit: 240, orient: narrow ? "top" : "right", columns: narrow ? 3 : 1 },
    rule: { color: soft }, text: { color: ink, fontSize: 12 },
    range: { category: (DARK.matches ? COLOURS.dark : COLOURS.light).slice(first), symbol: SHAPES.slice(first) },
  };
}

async function draw(name) {
  const place = byId(name);
  if (!place || place.offsetParent === null) return;
  if (!PLOTS.charts[name]) {
    place.hidden = true;
    return;
  }
  const spec = structuredClone(PLOTS.charts[name]);
  const rows = PLOTS[spec.data.name];
  if (!rows.length) {
    place.textContent = "No records to draw.";
    return;
  }
  spec.data = { values: rows };
  const room = place.clientWidth;
  const narrow = room < 640;
  if (name === "forest") {
    spec.spec.width = room - (narrow ? 24 : 170);
    spec.params.find((one) => one.name === "panel").value = spec.spec.width;
  } else {
    spec.columns = narrow ? 1 : 2;
    spec.spec.width = narrow ? room - 64 : (room - 330) / 2;
    spec.spec.height = narrow ? 210 : 250;
  }
  for (const one of spec.params) if (one.bind && one.bind !== "legend") one.bind.element = `#${name}-controls`;
  byId(`${name}-controls`).replaceChildren();
  await vega;
  await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", logLevel: 1, config: look(narrow, name === "cost" ? 1 : 0), loader: { target: "_self" } });
  place.dataset.drawn = "true";
}

const drawAll = () => Promise.all(Object.keys(PLOTS.charts).map(draw));
let drawnWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== drawnWidth) drawAll();
  drawnWidth = window.innerWidth;
});
DARK.addEventListener("change", drawAll);
drawAll();

// --- tabs
const TABS = [...document.querySelectorAll("[role=tab]")];

function choose(tab) {
  for (const one of TABS) {
    one.setAttribute("aria-selected", one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  draw("cost");
}

for (const [place, tab] of TABS.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(place + step + TABS.length) % TABS.length];
    choose(next);
    next.focus();
  });
}

// --- tables: sorted by data-value where a cell has it, else by the number that its text begins with
function sortKey(row, index) {
  const cell = row.cells[index];
  const text = (cell.dataset.value ?? cell.textContent).trim().replace("−", "-");
  if (["", "–", "nan"].includes(text)) return null;
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sortBy(table, heading) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row, heading.cellIndex), row]);
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (rising ? 1 : -1) * compare(a, b)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = element("button", heading.textContent);
    button.addEventListener("click", () => sortBy(table, heading));
    heading.replaceChildren(button);
  }
}

const quoted = (cell) => `"${cell.textContent.trim().replaceAll('"', '""')}"`;
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => {
    const rows = [...button.parentElement.querySelectorAll("tr")].map((row) => [...row.cells].map(quoted).join(","));
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
    link.download = `${button.dataset.name}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// --- where a number comes from: #records-1.2.3 and #claim-4 open it
let unpacked;

function details() {
  unpacked ??= unpack("packed").json();
  return unpacked;
}

function show(title, children) {
  byId("details-title").textContent = title;
  byId("details-body").replaceChildren(...children);
  if (!byId("details").open) byId("details").showModal();
  byId("details").scrollTop = 0;
}

function recordView(record, open) {
  const title = [record.axes.dataset, record.axes.method_name, record.task, record.file].filter(Boolean).join(", ");
  const view = element("details", undefined, [element("summary", title), element("pre", JSON.stringify(record, null, 2))]);
  view.open = open;
  return view;
}

function showRecords(records) {
  const single = records.length === 1;
  show(single ? "The record of this number" : `The ${records.length} records of this number`, records.map((one) => recordView(one, single)));
}

function showVerdict(verdict, all) {
  const models = verdict.records.map((model) => element("details", undefined, [
    element("summary", model), ...(all.models[model] ?? []).map((number) => recordView(all.records[number], false)),
  ]));
  const decision = verdict.p === null ? verdict.verdict : `${verdict.verdict}, corrected p = ${verdict.p.toPrecision(2)}`;
  show(`${verdict.number}. ${verdict.statement}`, [
    element("p", `${verdict.evidence_set}: ${decision}. ${verdict.reason}`),
    element("p", verdict.test),
    ...(verdict.comparisons.length ? [element("h4", "Comparisons"), element("ul", undefined, verdict.comparisons.map((text) => element("li", text)))] : []),
    ...(models.length ? [element("h4", `${models.length} models`), ...models] : []),
  ]);
}

async function route() {
  const [, kind, numbers] = location.hash.match(/^#(records|claim)-([\d.]+)$/) ?? [];
  if (!kind) return;
  const all = await details();
  if (kind === "records") showRecords(numbers.split(".").map((number) => all.records[number]));
  else showVerdict(all.verdicts[numbers], all);
}

window.addEventListener("hashchange", route);
byId("details").addEventListener("close", () => history.replaceState(null, "", "#"));
byId("details").addEventListener("click", (event) => {
  if (event.target.closest(".close") || event.target === byId("details")) byId("details").close();
});
route();
