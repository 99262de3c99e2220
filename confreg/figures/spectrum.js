// Singular values of the effective unembedding: every step faintly, the shown one boldly, the null space shaded.

const spectrum = run.spectrum;

function rampColour(position) {
  const [from, to] = [[214, 224, 233], [128, 158, 186]];
  return `rgb(${from.map((channel, index) => Math.round(channel + position * (to[index] - channel))).join(",")})`;
}

function spectrumTrace(row, line, more = {}) {
  return {
    x: spectrum.index, y: spectrum.singular_value[row], type: "scatter", mode: "lines", line, connectgaps: false,
    name: `step ${thousands(spectrum.steps[row])}`, hovertemplate: `index %{x}<br>%{y:.4~g}<extra>step ${thousands(spectrum.steps[row])}</extra>`, ...more,
  };
}

function nullSpace(step) {
  const dimensions = modelAt(step)("null_dimensions");
  if (!isKnown(dimensions)) return [];
  const end = spectrum.n_values - spectrum.n_exact_null - 0.5;
  const band = { type: "rect", xref: "x", yref: "paper", x0: end - dimensions, x1: end, y0: 0, y1: 1, layer: "below" };
  return [{ ...band, fillcolor: "rgba(36,88,140,.10)", line: { width: 0 } }];
}

function drawSpectrum(at) {
  if (!spectrum.steps.length) return showEmpty("spectrum", "No spectrum was recorded.");
  const step = run.steps[at], shown = spectrum.steps.indexOf(step), last = Math.max(1, spectrum.steps.length - 1);
  const traces = spectrum.steps.map((_, row) => spectrumTrace(row, { color: rampColour(row / last), width: 1 }, { showlegend: false }));
  if (shown >= 0) traces.push(spectrumTrace(shown, { color: COLOURS.ink, width: 2.4 }, { showlegend: true }));
  Plotly.react("spectrum", traces, layout({
    margin: { l: 62, r: 14, t: 12, b: 50 }, shapes: nullSpace(step), uirevision: "kept",
    xaxis: valueAxis("index, largest singular value first", { range: [-0.02 * spectrum.n_values, 1.02 * spectrum.n_values] }),
    yaxis: logAxis("singular value (logits per unit, log scale)", spectrum.singular_value),
  }), LARGE);
}
