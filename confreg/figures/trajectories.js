// What the rules look at, over steps, for every neuron that was ever named: where it is born, while it is named, where it dies.

const LABELS_MAX = 12; // more names would cover each other; the others are told on hovering
const TRAJECTORIES = {
  entropy: [
    { id: "entropy-effect", column: "entropy_effect", threshold: "entropy_effect_min", isLog: true },
    { id: "entropy-through-norm", column: "entropy_norm_mediated_share", threshold: "norm_mediated_share_min" },
    { id: "entropy-null-space", column: "null_space_share", threshold: "null_space_share_chance" },
  ],
  "token-frequency": [
    { id: "frequency-effect", column: "kl_from_frequency_effect", threshold: "kl_from_frequency_effect_min", isLog: true },
    { id: "frequency-through", column: "frequency_mediated_share", threshold: "frequency_mediated_share_min" },
    { id: "frequency-along", column: "frequency_cosine", threshold: "frequency_cosine_min", isSigned: true },
  ],
};

// A threshold belongs to the run (a number of its rules) or to a step and a layer; over several layers there is none to draw.
function thresholdAt(name, at, layer) {
  const ofRun = run.rules[name];
  return isKnown(ofRun) ? ofRun : (points.thresholds[at][layer] || {})[name] ?? null;
}

function spellsOf(kind) {
  const { name, first_step, last_step, n_clock_steps, formed_after } = run.spells;
  return name.map((each, row) => ({
    neuron: points.names.indexOf(each), name: each, first: run.steps.indexOf(first_step[row]), last: run.steps.indexOf(last_step[row]),
    formed: n_clock_steps[row] >= formed_after, kind: run.spells.kind[row],
  })).filter((spell) => spell.kind === kind && spell.neuron >= 0);
}

const steppedX = (ats) => ats.map((at) => stepPosition(run.steps[at]));
const allSteps = () => run.steps.map((_, at) => at);

function lineOf({ column, isLog }, neuron, ats, colour, line, kind) {
  const value = (at) => (isLog && !(points[column][at][neuron] > 0) ? null : points[column][at][neuron]);
  return {
    x: steppedX(ats), y: ats.map(value), hovertext: ats.map((at) => `step ${thousands(run.steps[at])}<br>${hoverText(at, neuron)}`), hoverinfo: "text",
    type: "scatter", mode: ats.length > 1 ? "lines" : "lines+markers", connectgaps: false, name: points.names[neuron], line: { color: colour, ...line },
    marker: { size: 5, color: colour, symbol: KIND_SYMBOLS[kind === "entropy" ? 1 : 2] },
  };
}

// Marks at the first clock step of a spell, and at the first one at which the neuron is no longer named.
function markTrace(panel, spells, kind, isBirth) {
  const marked = spells.filter((spell) => isBirth || spell.last + 1 < run.steps.length);
  const at = (spell) => (isBirth ? spell.first : spell.last + 1);
  const symbol = isBirth ? KIND_SYMBOLS[kind === "entropy" ? 1 : 2] : "x-thin";
  return {
    x: steppedX(marked.map(at)), y: marked.map((spell) => points[panel.column][at(spell)][spell.neuron]), type: "scatter", mode: "markers",
    name: isBirth ? "first named" : "no longer named", hoverinfo: "text", cliponaxis: false,
    hovertext: marked.map((spell) => `<b>${isBirth ? "named" : "no longer named"} at step ${thousands(run.steps[at(spell)])}</b><br>${hoverText(at(spell), spell.neuron)}`),
    marker: {
      symbol, color: COLOURS[kind], size: marked.map((spell) => (spell.formed ? 9 : 6)), opacity: 1,
      line: { color: isBirth ? COLOURS.card : COLOURS[kind], width: isBirth ? 1 : 2 },
    },
  };
}

function thresholdTraces(panel) {
  const layers = [...new Set(points.layer)];
  if (layers.length > 1 && !isKnown(run.rules[panel.threshold])) return [];
  const values = allSteps().map((at) => thresholdAt(panel.threshold, at, layers[0]));
  if (!hasValues(values)) return [];
  return (panel.isSigned ? [1, -1] : [1]).map((sign) => ({
    x: steppedX(allSteps()), y: values.map((value) => (isKnown(value) ? sign * value : null)), type: "scatter", mode: run.steps.length > 1 ? "lines" : "markers",
    name: "threshold", line: { color: COLOURS.ink, width: 1.2, dash: "dash" }, marker: { symbol: "line-ew-open", size: 10, color: COLOURS.ink },
    hovertemplate: "threshold %{y:.4~g}<extra></extra>",
  }));
}

// Names at the right end, pushed apart by a line's height: upwards, and down again from the top.
function endLabels(panel, neurons, range, figure, colour) {
  const em = FONT.size, height = Math.max(60, figure.clientHeight - 4.7 * em), last = run.steps.length - 1;
  const value = (neuron) => points[panel.column][last][neuron];
  const shown = neurons.filter((neuron) => isKnown(value(neuron)) && (!panel.isLog || value(neuron) > 0)).slice(0, LABELS_MAX);
  const place = (neuron) => Math.min(1, Math.max(0, ((panel.isLog ? Math.log10(value(neuron)) : value(neuron)) - range[0]) / (range[1] - range[0])));
  const apart = (1.1 * em) / height, heights = [];
  shown.sort((a, b) => place(a) - place(b)).forEach((neuron, row) => heights.push(Math.max(place(neuron), row ? heights[row - 1] + apart : 0)));
  for (let row = heights.length - 1, ceiling = 1; row >= 0; row -= 1, ceiling = heights[row + 1] - apart) heights[row] = Math.min(heights[row], ceiling);
  return shown.map((neuron, row) => ({
    xref: "paper", x: 1, xanchor: "left", xshift: 3, yref: "paper", y: heights[row], yanchor: "middle", text: points.names[neuron], showarrow: false,
    font: { size: 0.92 * em, color: colour },
  }));
}

function drawTrajectory(panel, kind) {
  const spells = spellsOf(kind), neurons = [...new Set(spells.map((spell) => spell.neuron))], colour = COLOURS[kind];
  const column = points[panel.column].map((values) => neurons.map((neuron) => values[neuron]));
  const figure = document.getElementById(panel.id), em = FONT.size;
  const low = panel.isSigned ? -1.05 : -0.25;
  const range = panel.isLog ? rangeOf([column, thresholdTraces(panel).map((trace) => trace.y)].flat(), true) : [low, 1.05];
  const paths = neurons.map((neuron) => lineOf(panel, neuron, allSteps(), colour, { width: 1 }, kind)).map((trace) => ({ ...trace, opacity: 0.55 }));
  const named = spells.map(({ neuron, first, last }) => lineOf(panel, neuron, allSteps().slice(first, last + 1), colour, { width: 2.6 }, kind));
  const axis = panel.isLog ? { ...logAxis("", column), range } : valueAxis("", { range, zeroline: true, zerolinecolor: COLOURS.grid });
  drawOverSteps(panel.id, [...thresholdTraces(panel), ...paths, ...named, markTrace(panel, spells, kind, true), markTrace(panel, spells, kind, false)], axis, {
    ticks: 4, showlegend: false, annotations: endLabels(panel, neurons, range, figure, colour), margin: { l: 4.2 * em, r: 3.6 * em, t: 0.8 * em, b: 3.9 * em },
  });
}

function drawTrajectories() {
  for (const [kind, panels] of Object.entries(TRAJECTORIES)) {
    if (spellsOf(kind).length) panels.forEach((panel) => drawTrajectory(panel, kind));
    else showEmpty(`${kind}-trajectories`, run.why_nothing_is_named || `No ${kind} neuron was named at any step.`);
  }
}
