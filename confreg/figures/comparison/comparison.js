// The figures of a comparison: each condition a line with its band, its single runs thinly behind, what it is compared with dotted.

const SERIES_COLOURS = 8;
const DASHES = ["solid", "dash", "longdash", "dashdot"];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x", "triangle-down", "star"];
const hidden = new Set();

const seriesColour = (index) => getComputedStyle(document.documentElement).getPropertyValue(`--series-${index % SERIES_COLOURS}`).trim();
const seriesDash = (index) => DASHES[Math.floor(index / SERIES_COLOURS) % DASHES.length];
const seriesSymbol = (index) => SYMBOLS[index % SYMBOLS.length];

function transparent(colour, opacity) {
  const channel = (at) => parseInt(colour.slice(at, at + 2), 16);
  return `rgba(${channel(1)},${channel(3)},${channel(5)},${opacity})`;
}

function escaped(text) {
  const place = document.createElement("span");
  place.textContent = text;
  return place.innerHTML;
}

function bandTrace(condition, index, measure) {
  const { step, low, high, n } = condition[measure];
  if (Math.max(...n) < 2) return null;
  const x = step.map(stepPosition);
  return {
    x: [...x, ...x.toReversed()], y: [...high, ...low.toReversed()], type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", showlegend: false,
    line: { width: 0 }, fillcolor: transparent(seriesColour(index), 0.14),
  };
}

// All runs of a condition as one trace with gaps: a hundred runs stay quick.
function runsTrace(index, measure) {
  const x = [], y = [], said = [];
  const members = run.runs.filter((each) => each.condition === index && each[measure]);
  if (run.conditions[index].n_runs < 2) return null;
  for (const each of members) {
    each.step.forEach((step, at) => {
      if (!isKnown(each[measure][at])) return;
      x.push(stepPosition(step));
      y.push(each[measure][at]);
      said.push(`${escaped(each.name)}<br>step ${thousands(step)}: ${number(each[measure][at])}`);
    });
    x.push(null);
    y.push(null);
    said.push("");
  }
  return {
    x, y, text: said, type: "scatter", mode: "lines", hovertemplate: "%{text}<extra></extra>", showlegend: false, connectgaps: false,
    line: { color: transparent(seriesColour(index), 0.4), width: 1 },
  };
}

function meanTrace(condition, index, measure) {
  const { step, mean, low, high, n } = condition[measure];
  const said = step.map((each, at) => {
    const spread = n[at] > 1 ? `mean ${number(mean[at])} (${number(low[at])} to ${number(high[at])}; ${n[at]} runs)` : number(mean[at]);
    return `<b>${escaped(condition.label)}</b><br>step ${thousands(each)}: ${spread}`;
  });
  return {
    x: step.map(stepPosition), y: mean, text: said, type: "scatter", mode: "lines+markers", hovertemplate: "%{text}<extra></extra>", showlegend: false,
    cliponaxis: false, line: { color: seriesColour(index), width: 2.2, dash: seriesDash(index) },
    marker: { color: seriesColour(index), size: 6, symbol: seriesSymbol(index) },
  };
}

function referenceTrace(condition, index, panel) {
  if (!panel.reference || !condition[panel.reference].step.length) return null;
  const { step, mean } = condition[panel.reference];
  const said = step.map((each, at) => `${escaped(condition.label)}, ${panel.reference_name}<br>step ${thousands(each)}: ${number(mean[at])}`);
  return {
    x: step.map(stepPosition), y: mean, text: said, type: "scatter", mode: step.length > 1 ? "lines" : "markers", hovertemplate: "%{text}<extra></extra>",
    showlegend: false, line: { color: seriesColour(index), width: 1.6, dash: "dot" }, marker: { color: seriesColour(index), symbol: "circle-open" },
  };
}

// What is drawn decides the axis: hiding a condition lets the others be seen.
function valuesOf(panel) {
  const shown = run.conditions.filter((_, index) => !hidden.has(index));
  return (shown.length ? shown : run.conditions).flatMap((condition) => {
    const reference = panel.reference ? condition[panel.reference].mean : [];
    return [condition[panel.measure].low, condition[panel.measure].high, reference];
  });
}

// Zero is on the axis where values come near it; a log axis would hide what is not above zero.
function panelAxis(panel) {
  const columns = valuesOf(panel), [low, high] = rangeOf(columns, false);
  const values = columns.flat().filter(isKnown), lowest = values.length ? Math.min(...values) : 0;
  if (panel.is_log && lowest > 0) return logAxis(`${panel.unit}, log scale`, columns);
  const from = lowest < 0 || lowest > 0.4 * high ? low : -0.05 * high;
  const counts = panel.unit === "neurons" ? { range: [from, Math.max(high, 1.05)], ...(high < 8 ? { dtick: 1 } : {}) } : { range: [from, high] };
  return valueAxis(panel.unit, { zeroline: true, zerolinecolor: COLOURS.cursor, tickformat: "~r", ...counts });
}

function drawPanel(panel) {
  const drawn = run.conditions.map((condition, index) => [condition, index]).filter(([condition, index]) => !hidden.has(index) && condition[panel.measure].step.length);
  const traces = [
    ...drawn.map(([condition, index]) => bandTrace(condition, index, panel.measure)),
    ...drawn.map(([, index]) => runsTrace(index, panel.measure)),
    ...drawn.map(([condition, index]) => referenceTrace(condition, index, panel)),
    ...drawn.map(([condition, index]) => meanTrace(condition, index, panel.measure)),
  ].filter(Boolean);
  const none = { text: "no condition is shown that has this", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { color: COLOURS.quiet } };
  Plotly.react(panel.measure, traces, layout({ xaxis: stepAxis(), yaxis: panelAxis(panel), showlegend: false, annotations: drawn.length ? [] : [none] }), SMALL);
}

function swatch(index) {
  const figure = { circle: "M17 8a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", diamond: "M21 3l5 5l-5 5l-5-5z", square: "M17 4h8v8h-8z", "triangle-up": "M21 3l5 9h-10z",
    cross: "M19 3h4v3h3v4h-3v3h-4v-3h-3v-4h3z", x: "M17 5l2-2l2 3l2-3l2 2l-2 3l2 3l-2 2l-2-3l-2 3l-2-2l2-3z", "triangle-down": "M16 4h10l-5 9z",
    star: "M21 2l2 4h4l-3 3l1 5l-4-3l-4 3l1-5l-3-3h4z" }[seriesSymbol(index)];
  const dashes = { solid: "", dash: "6 4", longdash: "11 5", dashdot: "7 3 2 3" }[seriesDash(index)];
  const colour = `var(--series-${index % SERIES_COLOURS})`;
  return `<svg width="42" height="16" aria-hidden="true"><path d="M0 8H42" style="stroke:${colour}" stroke-width="2.2" stroke-dasharray="${dashes}"/><path d="${figure}" style="fill:${colour}"/></svg>`;
}

function drawLegend() {
  const legend = document.getElementById("legend");
  run.conditions.forEach((condition, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    const runs = condition.n_runs > 1 ? ` <small>${condition.n_runs} runs</small>` : "";
    button.innerHTML = `${swatch(index)}<span>${escaped(condition.label)}${runs}</span>`;
    button.addEventListener("click", () => {
      if (!hidden.delete(index)) hidden.add(index);
      button.setAttribute("aria-pressed", String(!hidden.has(index)));
      drawPanels();
    });
    legend.append(button);
  });
}

function drawPanels() {
  for (const panel of run.panels) drawPanel(panel);
}

for (const grid of document.querySelectorAll(".cards")) if (grid.children.length % 2) grid.lastElementChild.classList.add("odd");
drawLegend();
offerLooks(drawPanels);
