// Norm against LogitVar at one step: axes fixed over the steps, named neurons labelled, their ways drawn.

const points = run.neurons;

const normRange = rangeOf(points.w_out_norm, false);
const logitVarRange = rangeOf(points.logit_var, true);

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

function hoverText(at, neuron) {
  const get = (column) => (points[column] && neuron < points[column][at].length ? points[column][at][neuron] : null);
  const kind = KIND_NAMES[points.kind[at][neuron]];
  const lines = [
    `<b>${points.names[neuron]}</b>${kind ? ` · ${kind} neuron` : ""}`,
    `norm ${number(get("w_out_norm"))} · LogitVar ${number(get("logit_var"))}`,
    `entropy effect ${nats(get("entropy_effect"))}${plusMinus(get("entropy_effect_stderr"))} nats, through the norm ${fixed(get("entropy_norm_mediated_share"))}`,
  ];
  if (neuron >= points.n_detailed) return lines.join("<br>");
  return lines.concat([
    `null-space share ${fixed(get("null_space_share"))} (chance ${fixed(get("null_space_share_chance"))})`,
    `loss effect ${nats(get("loss_effect"))}${plusMinus(get("loss_effect_stderr"))} nats, through the norm ${fixed(get("norm_mediated_share"))}`,
    `frequency effect ${nats(get("kl_from_frequency_effect"))}${plusMinus(get("kl_from_frequency_effect_stderr"))} nats, ` +
      `through frequency ${fixed(get("frequency_mediated_share"))}`,
    `frequency cosine ${fixed(get("frequency_cosine"))}`,
  ]).join("<br>");
}

const plusMinus = (error) => (isKnown(error) ? ` ± ${nats(error)}` : "");

function neuronsOfKind(at, kind) {
  return points.names.map((_, neuron) => neuron).filter((neuron) => points.kind[at][neuron] === kind && isKnown(points.w_out_norm[at][neuron]));
}

function pointTrace(at, kind, label) {
  const neurons = neuronsOfKind(at, kind);
  const named = kind > 0;
  const pick = (column) => neurons.map((neuron) => points[column][at][neuron]);
  const colours = pick("entropy_norm_mediated_share").map(shareColour);
  return {
    x: pick("w_out_norm"), y: pick("logit_var"), hovertext: neurons.map((neuron) => hoverText(at, neuron)), hoverinfo: "text",
    type: "scatter", mode: "markers", name: label, showlegend: true, cliponaxis: false,
    marker: {
      color: colours, symbol: KIND_SYMBOLS[kind], size: named ? 12 : points.names.length > 600 ? 5 : 7, opacity: named ? 1 : 0.85,
      line: { color: named ? KIND_COLOURS[kind] : "#ffffff", width: named ? 2 : 0.5 },
    },
  };
}

function wayTrace(at, kind) {
  const x = [], y = [];
  for (const neuron of neuronsOfKind(at, kind)) {
    for (let step = 0; step <= at; step += 1) {
      x.push(points.w_out_norm[step][neuron]);
      y.push(points.logit_var[step][neuron]);
    }
    x.push(null);
    y.push(null);
  }
  return { x, y, type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, opacity: 0.35, line: { color: KIND_COLOURS[kind], width: 1.2 } };
}

// Each label takes the first of eight places where it covers neither a named point nor an earlier label.
function labels(at, figure) {
  const width = figure.clientWidth - 62 - 100, height = figure.clientHeight - 100;
  const toPixels = (neuron) => [
    ((points.w_out_norm[at][neuron] - normRange[0]) / (normRange[1] - normRange[0])) * width,
    height - ((Math.log10(points.logit_var[at][neuron]) - logitVarRange[0]) / (logitVarRange[1] - logitVarRange[0])) * height,
  ];
  const named = points.names.map((_, neuron) => neuron).filter((neuron) => points.kind[at][neuron] > 0 && points.logit_var[at][neuron] > 0);
  const taken = named.map(toPixels).map(([x, y]) => [x - 7, y - 7, x + 7, y + 7]);
  const isFree = (box) => box[0] > -10 && box[2] < width + 40 && taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
  return named.map((neuron) => {
    const [x, y] = toPixels(neuron), text = points.names[neuron], long = 7 * text.length;
    for (const reach of [9, 22, 38, 56]) {
      for (const [right, up] of [[1, 0], [1, 1], [-1, 0], [-1, 1], [1, -1], [-1, -1], [0, 1], [0, -1]]) {
        const middle = [x + right * (reach + long / 2), y - up * (reach + 7)];
        const box = [middle[0] - long / 2, middle[1] - 7, middle[0] + long / 2, middle[1] + 7];
        if (!isFree(box)) continue;
        taken.push(box);
        return labelAt(at, neuron, middle[0] - x, middle[1] - y, reach > 9);
      }
    }
    return labelAt(at, neuron, 0, -14, false);
  });
}

function labelAt(at, neuron, right, down, isFar) {
  const colour = KIND_COLOURS[points.kind[at][neuron]];
  return {
    x: points.w_out_norm[at][neuron], y: Math.log10(points.logit_var[at][neuron]), ax: right, ay: down, text: points.names[neuron],
    showarrow: true, arrowhead: 0, arrowwidth: isFar ? 0.8 : 0.001, arrowcolor: isFar ? colour : "rgba(0,0,0,0)", standoff: 7,
    font: { size: 12, color: colour }, bgcolor: "rgba(255,255,255,.72)", borderpad: 0,
  };
}

function drawNeurons(at) {
  const figure = document.getElementById("neurons");
  const known = KIND_NAMES.map((_, kind) => points.kind.some((kinds) => kinds.includes(kind)));
  const kinds = [0, 1, 2, 3].filter((kind) => kind === 0 || known[kind]);
  const traces = kinds.filter((kind) => kind > 0).map((kind) => wayTrace(at, kind));
  for (const kind of kinds) traces.push(pointTrace(at, kind, kind ? KIND_NAMES[kind] : "not named"));
  traces.push({
    x: [null], y: [null], type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip",
    marker: {
      color: [0], cmin: 0, cmax: 1, colorscale: SHARE_SCALE, showscale: true,
      colorbar: { title: { text: "share of the entropy effect through the final norm", side: "right", font: { size: 12 } },
        thickness: 12, outlinewidth: 0, len: 0.9, dtick: 0.25, tickformat: ".2f" },
    },
  });
  Plotly.react(figure, traces, layout({
    margin: { l: 62, r: 10, t: 12, b: 50 }, annotations: labels(at, figure), uirevision: "kept",
    xaxis: valueAxis("norm of the output weights (model units)", { range: normRange }),
    yaxis: logAxis("LogitVar (dimensionless, log scale)", points.logit_var),
  }), LARGE);
}

function notePoints() {
  const left = points.n_measured - points.names.length;
  if (left > 0) document.getElementById("points-note").textContent = `Drawn are the ${thousands(points.names.length)} neurons that matter most of ${thousands(points.n_measured)}.`;
}
