// Singular values of the effective unembedding: every step faintly, the shown one boldly, the null space shaded.

const spectrum = run.spectrum;

function rampColour(position) {
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [from, to] = [channels(COLOURS.faint), channels(COLOURS.fainter)];
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
  const end = spectrum.n_values - 0.5; // exact nulls, where there are fewer tokens than dimensions, are its last and drawn nowhere
  const band = { type: "rect", xref: "x", yref: "paper", x0: end - dimensions, x1: end, y0: 0, y1: 1, layer: "below" };
  return [{ ...band, fillcolor: COLOURS.band, line: { width: 0 } }];
}

function drawSpectrum(at) {
  if (!spectrum.steps.length) return showEmpty("spectrum", "No spectrum was recorded: the run has no spectrum table.");
  const step = run.steps[at], shown = spectrum.steps.indexOf(step), last = Math.max(1, spectrum.steps.length - 1);
  const traces = spectrum.steps.map((_, row) => spectrumTrace(row, { color: rampColour(row / last), width: 1 }, { showlegend: false }));
  if (shown >= 0) traces.push(spectrumTrace(shown, { color: COLOURS.ink, width: 2.4 }, { showlegend: true }));
  Plotly.react("spectrum", traces, layout({
    margin: { l: 5 * FONT.size, r: 1.2 * FONT.size, t: 0.8 * FONT.size, b: 4 * FONT.size }, shapes: nullSpace(step), uirevision: "kept",
    xaxis: valueAxis("index, largest singular value first", { range: [-0.02 * spectrum.n_values, 1.02 * spectrum.n_values] }),
    yaxis: logAxis("singular value (logits per unit, log scale)", spectrum.singular_value),
  }), LARGE);
}
