"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, text, children = []) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// --- sorting: numbers by data-value where a cell has one, else by its text
function sortKey(row, index) {
  const cell = row.cells[index];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text);
  return text === "" || text === "nan" ? null : Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sortBy(table, heading) {
  const index = heading.cellIndex;
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row, index), row]);
  keyed.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : (rising ? 1 : -1) * compare(a, b)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = element("button", heading.textContent);
    button.addEventListener("click", () => sortBy(table, heading));
    heading.replaceChildren(button);
  }
}

// --- filter of the claims
for (const button of document.querySelectorAll("[data-filter]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-filter]")) other.setAttribute("aria-pressed", other === button);
    for (const row of document.querySelector("table.claims").tBodies[0].rows) {
      const verdicts = [...row.querySelectorAll(".verdict")].map((cell) => cell.dataset.value);
      row.hidden = button.dataset.filter !== "" && !verdicts.includes(button.dataset.filter);
    }
  });
}

// --- provenance
function show(title, ...children) {
  byId("details-body").replaceChildren(element("h3", title), ...children);
  if (!byId("details").open) byId("details").showModal();
  byId("details").scrollTop = 0;
}

function recordView(id, open) {
  const view = element("details", undefined, [
    element("summary", id), element("pre", JSON.stringify(DATA.records[id], null, 2)),
  ]);
  view.open = open;
  return view;
}

function showRecords(ids) {
  const single = ids.length === 1;
  show(single ? "The record of this number" : `The ${ids.length} records of this number`, ...ids.map((id) => recordView(id, single)));
}

function showVerdict(verdict) {
  const models = verdict.records.map((model) => element("details", undefined, [
    element("summary", model), ...(DATA.models[model] ?? []).map((id) => recordView(id, false)),
  ]));
  const decision = verdict.p === null ? verdict.verdict : `${verdict.verdict}, corrected p = ${verdict.p.toPrecision(2)}`;
  show(`${verdict.number}. ${verdict.statement}`,
    element("p", `${verdict.evidence_set}: ${decision}. ${verdict.reason}`),
    element("p", verdict.test),
    ...(verdict.comparisons.length ? [element("h4", "Comparisons"), element("ul", undefined, verdict.comparisons.map((text) => element("li", text)))] : []),
    ...(models.length ? [element("h4", `${models.length} models`), ...models] : []));
}

document.addEventListener("click", (event) => {
  const from = event.target.closest("[data-records], [data-verdict]");
  if (from?.dataset.records) showRecords(from.dataset.records.split(" "));
  if (from?.dataset.verdict) showVerdict(DATA.verdicts[Number(from.dataset.verdict)]);
  if (event.target.closest(".close") || event.target === byId("details")) byId("details").close();
});

// --- the plot
function plotSpec(plot, measure, text) {
  const nll = measure.startsWith("nll");
  const kind = nll ? { type: "log", reverse: true } : { type: "linear", zero: false };
  const scale = { ...kind, nice: false, padding: 25 };
  const labels = plot.series.map((one) => one.label);
  const narrow = byId("plot-view").clientWidth < 600;
  const x = { field: measure, type: "quantitative", scale, title: [text, "(forgets less →)"], axis: { tickCount: 6, format: "~g" } };
  const y = { field: "target", type: "quantitative", scale: { zero: false, nice: false, padding: 20 }, title: `${plot.y} (learns more →)` };
  const color = { field: "label", type: "nominal", title: null, scale: { domain: labels, range: plot.series.map((one) => one.colour) } };
  const shape = { field: "label", type: "nominal", title: null, scale: { domain: labels, range: plot.series.map((one) => one.shape) } };
  const known = { filter: `isValid(datum['${measure}'])` };
  const bar = (field) => ({
    transform: [{ filter: `isValid(datum['${field}_se'])` },
      { calculate: `datum['${field}'] - datum['${field}_se']`, as: "from" }, { calculate: `datum['${field}'] + datum['${field}_se']`, as: "to" }],
    mark: { type: "rule", strokeWidth: 1, opacity: 0.7 },
    encoding: field === "target" ? { y: { ...y, field: "from" }, y2: { field: "to" }, color } : { x: { ...x, field: "from" }, x2: { field: "to" }, color },
  });
  const base = plot.base === null ? [] : [["x", measure], ["y", "target"]].map(([axis, field]) => ({
    data: { values: [plot.base] },
    mark: { type: "rule", strokeDash: [5, 4], color: "#666" },
    encoding: { x: null, y: null, [axis]: { field, type: "quantitative" } },
  }));
  return {
    width: "container", height: 420, data: { values: plot.marks }, transform: [known],
    encoding: { x, y },
    layer: [...base,
      { mark: { type: "line", strokeWidth: 1.5 }, encoding: { color, detail: { field: "line" }, order: { field: "order" } } },
      bar(measure), bar("target"),
      { mark: { type: "point", filled: true, opacity: 1, strokeWidth: 1.5 },
        encoding: { color, shape,
          size: { field: "size", type: "quantitative", legend: null, scale: { type: "log", range: [70, 260] } },
          tooltip: [["label", "method"], ["rate", "learning rate"], ["duration", "duration"], ["seeds", "seeds"]].map(([field, title]) => ({ field, title }))
            .concat([["target", plot.y], ["target_se", "± "], [measure, text], [`${measure}_se`, "±"]].map(([field, title]) => ({ field, title, type: "quantitative", format: ".3f" }))) } }],
    config: { font: "system-ui, sans-serif", axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, gridColor: "#eee" },
      legend: { labelFontSize: 12, orient: narrow ? "bottom" : "right", columns: narrow ? 2 : 1, symbolSize: 90 }, view: { stroke: null } },
  };
}

async function drawPlot() {
  const plot = DATA.plot[byId("plot-group").value];
  const [measure, text] = plot.measures[byId("plot-measure").value];
  const made = await window.vegaEmbed("#plot-view", plotSpec(plot, measure, text), { actions: false, renderer: "svg" });
  made.view.addEventListener("click", (_, item) => { if (item?.datum?.records) showRecords([...new Set(item.datum.records)]); });
}

function chooseGroup() {
  const plot = DATA.plot[byId("plot-group").value];
  byId("plot-measure").replaceChildren(...plot.measures.map(([, text], index) => { const option = element("option", text); option.value = index; return option; }));
  drawPlot();
}

if (DATA.plot.length) {
  byId("plot-group").append(...DATA.plot.map((plot, index) => { const option = element("option", plot.group); option.value = index; return option; }));
  byId("plot-group").addEventListener("change", chooseGroup);
  byId("plot-measure").addEventListener("change", drawPlot);
  chooseGroup();
} else {
  byId("plot-view").textContent = "No model has both a target score and a measure of forgetting.";
}
