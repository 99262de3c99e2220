// Figures over optimizer steps; each carries a line at the step that the slider shows.

const overSteps = new Set();

const NO_TRUTH = "The best prediction of this text is not known, so nothing is drawn here. It is known for the synthetic languages (data=known_confidence and its controls).";
const MISSING = {
  loss: "No loss was recorded: the run has no model table, or its loss_nats is null.",
  entropy: "No entropy was recorded: the run has no model table, or its entropy_nats is null.",
  excess: NO_TRUTH, confidence: NO_TRUTH,
  calibration: "No calibration error was recorded: the run has no model table, or its calibration_error is null.",
  counts: "No counts were recorded: the run has no model table.",
};

function drawOverSteps(id, traces, yAxis, more = {}) {
  const drawn = traces.filter(Boolean);
  if (!drawn.length) return showEmpty(id, MISSING[id] || "Nothing was recorded for this figure.");
  const { ticks, ...rest } = more;
  Plotly.react(id, drawn, layout({ xaxis: stepAxis(ticks), yaxis: yAxis, ...rest }), SMALL);
  const figure = document.getElementById(id);
  if (!overSteps.has(figure)) addCursor(figure);
  moveCursor(figure);
}

// The cursor is a line laid over the figure: to move it costs nothing, to draw a dozen figures anew would.
function addCursor(figure) {
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  figure.append(cursor);
  figure.on("plotly_click", (event) => showNearestStep(event.points[0].x));
  figure.on("plotly_afterplot", () => moveCursor(figure)); // zoomed, or of another size
  overSteps.add(figure);
}

function moveCursor(figure) {
  const { xaxis, yaxis } = figure._fullLayout, cursor = figure.querySelector(":scope > .cursor");
  const x = xaxis.l2p(stepPosition(run.steps[shownAt()]));
  cursor.hidden = x < 0 || x > xaxis._length;
  cursor.style.transform = `translateX(${xaxis._offset + x}px)`;
  cursor.style.top = `${yaxis._offset}px`;
  cursor.style.height = `${yaxis._length}px`;
}

function modelLine(column, name, colour, line = {}, marker = { size: 5 }) {
  const values = run.model[column];
  if (!hasValues(values)) return null;
  return {
    x: run.model.step.map(stepPosition), y: values, customdata: run.model.step.map(thousands), name, type: "scatter", cliponaxis: false,
    mode: marker ? "lines+markers" : run.model.step.length > 1 ? "lines" : "markers", line: { color: colour, width: 2, ...line }, marker: { color: colour, ...marker },
    hovertemplate: `step %{customdata}<br>${name}: %{y:.4~g}<extra></extra>`,
  };
}

function drawModel() {
  const zero = { zeroline: true, zerolinecolor: COLOURS.cursor };
  drawOverSteps("loss", [
    modelLine("loss_nats", "model", COLOURS.ink),
    modelLine("bayes_loss_nats", "best predictor", COLOURS.best, { dash: "dash" }, null),
  ], valueAxis("loss (nats per token)"));
  drawOverSteps("entropy", [
    modelLine("entropy_nats", "model", COLOURS.ink),
    modelLine("bayes_entropy_nats", "best predictor", COLOURS.best, { dash: "dash" }, null),
  ], valueAxis("entropy (nats per token)"));
  drawOverSteps("confidence", [modelLine("excess_entropy_nats", "entropy of the model less that of the best predictor", COLOURS.ink)],
    valueAxis("excess entropy (nats)", { rangemode: "tozero", ...zero }), { showlegend: false });
  drawOverSteps("excess", [
    modelLine("excess_loss_nats", "excess loss", COLOURS.ink),
    modelLine("bayes_kl_nats", "divergence D(best ‖ model)", COLOURS.best, { dash: "dash" }, null),
  ], logAxis("distance (nats per token)", [run.model.excess_loss_nats, run.model.bayes_kl_nats]));
  drawOverSteps("calibration", [modelLine("calibration_error", "calibration error", COLOURS.ink)],
    valueAxis("calibration error (probability)", { rangemode: "tozero", ...zero }), { showlegend: false });
}

function drawCounts() {
  if (run.why_nothing_is_named) return showEmpty("counts", run.why_nothing_is_named);
  const control = { dash: "dot", width: 1.5 };
  const open = (symbol) => ({ size: 6, symbol: `${symbol}-open` });
  const most = run.model.n_entropy_neurons.concat(run.model.n_frequency_neurons).reduce((a, b) => Math.max(a, b), 1);
  drawOverSteps("counts", [
    modelLine("n_entropy_neurons", "entropy", COLOURS.entropy, {}, { size: 7, symbol: "diamond" }),
    modelLine("n_entropy_neurons_control", "control", COLOURS.entropy, control, open("diamond")),
    modelLine("n_frequency_neurons", "token-frequency", COLOURS["token-frequency"], {}, { size: 6, symbol: "square" }),
    modelLine("n_frequency_neurons_control", "control", COLOURS["token-frequency"], control, open("square")),
  ], valueAxis("neurons", { range: [-0.05 * most, 1.08 * most], nticks: 6, tickformat: "~r" }));
}
