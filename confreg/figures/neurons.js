// Norm against LogitVar at one step, with the ways that the named neurons came.

function shareColour(share) {
  if (!isKnown(share)) return COLOURS.unknown;
  const clamped = Math.min(1, Math.max(0, share));
  const upper = SHARE_SCALE.findIndex(([at]) => at >= clamped);
  if (upper <= 0) return SHARE_SCALE[0][1];
  const [[from, start], [to, end]] = [SHARE_SCALE[upper - 1], SHARE_SCALE[upper]];
  const weight = (clamped - from) / (to - from);
  const channel = (hex, index) => parseInt(hex.slice(1 + 2 * index, 3 + 2 * index), 16);
  return `rgb(${[0, 1, 2].map((index) => Math.round((1 - weight) * channel(start, index) + weight * channel(end, index))).join(",")})`;
}

const isNarrow = (figure) => figure.clientWidth < 30 * FONT.size;

const normPlane = {
  id: "neurons",
  x: { column: "w_out_norm", range: rangeOf(points.w_out_norm, false), axis: () => valueAxis("norm of the output weights (model units)", { range: normPlane.x.range }) },
  y: { column: "logit_var", isLog: true, range: rangeOf(points.logit_var, true), axis: () => logAxis("LogitVar (dimensionless, log scale)", points.logit_var) },
  colour: (at, neuron) => shareColour(points.entropy_norm_mediated_share[at][neuron]),
  size: (at, neuron, kind) => (kind ? 12 : points.names.length > 600 ? 5 : 7),
  margin: () => ({ l: 5 * FONT.size, r: isNarrow(document.getElementById("neurons")) ? FONT.size : 8 * FONT.size, t: 0.8 * FONT.size, b: 4 * FONT.size }),
  missing: "No norm or no LogitVar was recorded at this step.",
};

function wayTrace(at, kind) {
  const x = [], y = [];
  for (const neuron of placedNeurons(normPlane, at, kind)) {
    for (let step = 0; step <= at; step += 1) {
      x.push(points.w_out_norm[step][neuron]);
      y.push(points.logit_var[step][neuron]);
    }
    x.push(null);
    y.push(null);
  }
  return { x, y, type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, opacity: 0.4, line: { color: KIND_COLOURS[kind], width: 1.2 } };
}

// A trace without points, for its colour bar; a narrow screen has no room for one, and the hover text tells the share.
function shareBar() {
  return {
    x: [null], y: [null], type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip",
    marker: {
      color: [0], cmin: 0, cmax: 1, colorscale: SHARE_SCALE.map(([at, colour]) => [at, colour]), showscale: !isNarrow(document.getElementById("neurons")),
      colorbar: { title: { text: "share of the entropy effect through the final norm", side: "right", font: { size: FONT.size } },
        thickness: 12, outlinewidth: 0, len: 0.9, dtick: 0.25, tickformat: ".2f", tickfont: { size: FONT.size } },
    },
  };
}

function drawNeurons(at) {
  drawPlane(normPlane, at, { before: kindsOfRun.filter(Boolean).map((kind) => wayTrace(at, kind)), after: [shareBar()] });
}

function notePoints() {
  const left = points.n_measured - points.names.length;
  const said = left > 0 ? `Drawn are the ${thousands(points.names.length)} neurons that matter most of ${thousands(points.n_measured)}; the others are in the records.` : "";
  for (const place of document.querySelectorAll(".points-note")) place.textContent = said;
}
