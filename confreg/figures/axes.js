"use strict";
// What every figure shares: the data, the colours, the axis of optimizer steps, numbers as text.

const run = JSON.parse(document.getElementById("run-data").textContent);

// Colours stand in page.css, once for light and once for dark; readLook takes them from there.
const COLOURS = {};
const COLOUR_PROPERTIES = {
  ink: "--ink", quiet: "--quiet", grid: "--grid", unknown: "--unknown", best: "--best", entropy: "--entropy", "token-frequency": "--frequency",
  both: "--both", card: "--card", edge: "--edge", cursor: "--cursor", point: "--point", band: "--band", bandFrequency: "--band-frequency",
  faint: "--faint", fainter: "--fainter",
};
const KIND_NAMES = ["", "entropy", "token-frequency", "entropy and token-frequency"];
const KIND_COLOURS = [];
const KIND_SYMBOLS = ["circle", "diamond", "square", "star"];
const SHARE_SCALE = [[0, "--share-none"], [0.35, "--share-some"], [0.65, "--share-most"], [1, "--share-all"]];
const FONT = { family: '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif', size: 12.5 };
// Dragging zooms and a double click resets; the buttons are named one by one, for plotly's own set has one that leaves the page.
const SMALL = { displaylogo: false, responsive: true, displayModeBar: false };
const LARGE = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

function readLook() {
  const style = getComputedStyle(document.documentElement);
  const colour = (property) => style.getPropertyValue(property).trim();
  for (const [name, property] of Object.entries(COLOUR_PROPERTIES)) COLOURS[name] = colour(property);
  ["none", "some", "most", "all"].forEach((amount, index) => { SHARE_SCALE[index][1] = colour(`--share-${amount}`); });
  KIND_COLOURS.splice(0, 4, COLOURS.quiet, COLOURS.entropy, COLOURS["token-frequency"], COLOURS.both);
  FONT.size = Math.round(2 * 0.82 * parseFloat(style.fontSize)) / 2;
  FONT.color = COLOURS.ink;
}
readLook();

// Step 0 has no logarithm: steps are drawn at log2(step + 1).
const stepPosition = (step) => Math.log2(step + 1);

function stepTicks(last, most = 7) {
  const doublings = Math.floor(Math.log2(Math.max(1, last)));
  const stride = Math.max(1, Math.ceil(doublings / most));
  const ticks = [0];
  for (let power = 0; power <= doublings; power += stride) ticks.push(2 ** power);
  return ticks;
}

function stepAxis(most = 7) {
  const last = Math.max(...run.steps, ...run.model.step);
  const ticks = stepTicks(last, most);
  const end = stepPosition(Math.max(1, last));
  return {
    title: { text: "optimizer step (log scale, from 0)", standoff: 8, font: { size: FONT.size } },
    range: [-0.03 * end, 1.03 * end],
    tickvals: ticks.map(stepPosition),
    ticktext: ticks.map(thousands),
    gridcolor: COLOURS.grid, zeroline: false,
  };
}

function layout(overrides) {
  const em = FONT.size;
  return {
    font: { ...FONT }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 5 * em, r: 1.2 * em, t: 0.6 * em, b: 3.9 * em }, hovermode: "closest",
    hoverlabel: { bgcolor: COLOURS.card, bordercolor: COLOURS.edge, font: { ...FONT }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: COLOURS.unknown, activecolor: COLOURS.ink },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: em } },
    ...overrides,
  };
}

const valueAxis = (title, more = {}) => ({ title: { text: title, standoff: 8, font: { size: FONT.size } }, gridcolor: COLOURS.grid, zeroline: false, exponentformat: "e", ...more });

// Ticks written out (0.05, not a small 5), so that a short log axis is readable too.
function logAxis(title, columns) {
  const range = rangeOf(columns, true);
  const steps = range[1] - range[0] > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let decade = Math.floor(range[0]); decade <= range[1]; decade += 1) {
    ticks.push(...steps.map((step) => Number(`${step}e${decade}`)).filter((tick) => Math.log10(tick) >= range[0] && Math.log10(tick) <= range[1]));
  }
  return valueAxis(title, { type: "log", range, tickvals: ticks, ticktext: ticks.map((tick) => number(tick, 1)) });
}

// Lowest and highest value with a margin; of the decimal logarithms for a log axis.
function rangeOf(columns, isLog) {
  const values = columns.flat().filter((value) => isKnown(value) && (!isLog || value > 0)).map((value) => (isLog ? Math.log10(value) : value));
  if (!values.length) return [0, 1];
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  // A log axis is at least 0.4 decades long, so that one of its ticks 1, 2, 5 lies on it.
  const margin = Math.max(0.05 * (high - low), isLog ? 0.2 : 0) || 0.5;
  return [low - margin, high + margin];
}

const isKnown = (value) => value !== null && value !== undefined;
const hasValues = (values) => values.some(isKnown);
const thousands = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

function number(value, digits = 3) {
  if (!isKnown(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6) return value.toExponential(digits - 1).replace("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
}

function fixed(value, decimals = 2) {
  return isKnown(value) ? value.toFixed(decimals).replace(/^-(?=[0.]+$)/, "").replace("-", "−") : "–";
}

// Effects are small and all of one unit: one number of decimals keeps a column straight.
const nats = (value) => (isKnown(value) ? (value === 0 ? "0" : Math.abs(value) < 5e-5 ? "<0.0001" : value.toFixed(4)) : "–");

function largeNumber(value) {
  if (!isKnown(value)) return "–";
  for (const [size, word] of [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${word}`;
  }
  return thousands(value);
}

function modelAt(step) {
  const row = run.model.step.indexOf(step);
  return (name) => (row < 0 ? null : run.model[name][row]);
}

// The text may carry a value of the run's configuration: it is set as text, never as markup.
function showEmpty(id, text) {
  const place = document.getElementById(id), said = document.createElement("p");
  place.classList.remove("figure", "tall", "square");
  place.removeAttribute("role");
  said.className = "empty";
  said.textContent = text;
  place.replaceChildren(said);
}
