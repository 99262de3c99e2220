// Figures over optimizer steps; each carries a line at the step that the slider shows.

const overSteps = [];

function drawOverSteps(id, traces, yAxis, more = {}) {
  const drawn = traces.filter(Boolean);
  if (!drawn.length) return showEmpty(id, "Nothing was recorded for this figure.");
  const cursor = { type: "line", xref: "x", yref: "paper", x0: 0, x1: 0, y0: 0, y1: 1, line: { color: "#9aa5b1", width: 1, dash: "dot" }, layer: "below" };
  Plotly.newPlot(id, drawn, layout({ xaxis: stepAxis(), yaxis: yAxis, shapes: [cursor], ...more }), SMALL);
  const figure = document.getElementById(id);
  figure.on("plotly_click", (event) => showNearestStep(event.points[0].x));
  overSteps.push(figure);
}

function modelLine(column, name, colour, line = {}, marker = { size: 5 }) {
  const values = run.model[column];
  if (!hasValues(values)) return null;
  return {
    x: run.model.step.map(stepPosition), y: values, customdata: run.model.step.map(thousands), name, type: "scatter", cliponaxis: false,
    mode: marker ? "lines+markers" : "lines", line: { color: colour, width: 2, ...line }, marker: { color: colour, ...marker },
    hovertemplate: `step %{customdata}<br>${name}: %{y:.4~g}<extra></extra>`,
  };
}

function drawLosses() {
  const bayes = modelLine("bayes_loss_nats", "best predictor", COLOURS.best, { dash: "dash" }, null);
  const own = bayes ? null : modelLine("entropy_nats", "entropy of the model", COLOURS.quiet, { dash: "dot" }, null);
  drawOverSteps("loss", [modelLine("loss_nats", "model", COLOURS.ink), bayes, own], valueAxis("loss (nats per token)"));
  if (!bayes) return;
  drawOverSteps("excess", [
    modelLine("excess_loss_nats", "excess loss", COLOURS.ink),
    modelLine("bayes_kl_nats", "divergence D(best ‖ model)", COLOURS.best, { dash: "dash" }, null),
  ], logAxis("distance (nats per token)", [run.model.excess_loss_nats, run.model.bayes_kl_nats]));
  drawOverSteps("confidence", [modelLine("excess_entropy_nats", "entropy of the model less that of the best predictor", COLOURS.ink)],
    valueAxis("excess entropy (nats)", { zeroline: true, zerolinecolor: "#9aa5b1" }), { showlegend: false });
}

function drawCounts() {
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

function spellTrace(kind, formed) {
  const { order, name, first_step, last_step, n_clock_steps, formed_after } = run.spells;
  const x = [], y = [], text = [];
  name.forEach((each, index) => {
    if (run.spells.kind[index] !== kind || (n_clock_steps[index] >= formed_after) !== formed) return;
    const isBoth = name.some((other, at) => other === each && run.spells.kind[at] !== kind);
    const row = order.indexOf(each) + (isBoth ? (kind === "entropy" ? -0.2 : 0.2) : 0);
    const said = `${each}, ${kind}<br>named from step ${thousands(first_step[index])} to ${thousands(last_step[index])}`;
    x.push(stepPosition(first_step[index]), stepPosition(last_step[index]), null);
    y.push(row, row, null);
    text.push(said, said, null);
  });
  const colour = COLOURS[kind];
  return {
    x, y, text, type: "scatter", mode: "lines+markers", hovertemplate: "%{text}<extra></extra>", name: formed ? kind : `${kind}, brief`,
    line: { color: colour, width: formed ? 6 : 1.5 }, marker: { color: colour, size: formed ? 6 : 5, symbol: kind === "entropy" ? "diamond" : "square" },
    opacity: formed ? 1 : 0.6, showlegend: x.length > 0,
  };
}

function drawTimeline() {
  const { order, n_named } = run.spells;
  if (!order.length) return showEmpty("timeline", run.why_nothing_is_named || "No neuron was named at any step.");
  const traces = ["entropy", "token-frequency"].flatMap((kind) => [spellTrace(kind, true), spellTrace(kind, false)]);
  const rows = { range: [order.length - 0.4, -0.6], tickvals: order.map((_, row) => row), ticktext: order, gridcolor: "#f1f3f5", zeroline: false };
  const left_out = n_named - order.length;
  const title = left_out ? `layer.neuron (${left_out} brief ones not shown)` : "layer.neuron";
  document.getElementById("timeline").style.height = `${110 + 19 * order.length}px`;
  drawOverSteps("timeline", traces, { ...rows, title: { text: title, standoff: 10 }, automargin: true });
}

function moveCursors(step) {
  const x = stepPosition(step);
  for (const figure of overSteps) Plotly.relayout(figure, { "shapes[0].x0": x, "shapes[0].x1": x });
}
