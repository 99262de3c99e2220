// A plane with one point for each neuron at the shown step: axes fixed over the steps, named neurons labelled.

const points = run.neurons;
const plusMinus = (error) => (isKnown(error) ? ` ± ${nats(error)}` : "");

// The value of a column; null where it was not measured, or where the page has no room for it (beyond n_detailed).
const valueOf = (column, at, neuron) => points[column][at][neuron] ?? null;

function hoverText(at, neuron) {
  const get = (column) => valueOf(column, at, neuron);
  const kind = KIND_NAMES[points.kind[at][neuron]];
  const lines = [
    `<b>${points.names[neuron]}</b>${kind ? ` · ${kind} neuron` : ""}`,
    `entropy effect ${nats(get("entropy_effect"))}${plusMinus(get("entropy_effect_stderr"))} nats, through the norm ${fixed(get("entropy_norm_mediated_share"))}`,
    `null-space share ${fixed(get("null_space_share"))} (chance ${fixed(thresholdAt("null_space_share_chance", at, points.layer[neuron]))})`,
    `frequency effect ${nats(get("kl_from_frequency_effect"))}${plusMinus(get("kl_from_frequency_effect_stderr"))} nats, ` +
      `through the frequencies ${fixed(get("frequency_mediated_share"))}`,
    `frequency cosine ${fixed(get("frequency_cosine"))}`,
    `norm ${number(get("w_out_norm"))} · LogitVar ${number(get("logit_var"))}`,
  ];
  if (neuron < points.n_detailed) lines.push(`loss effect ${nats(get("loss_effect"))}${plusMinus(get("loss_effect_stderr"))} nats`);
  return lines.join("<br>");
}

// Where a neuron is drawn; a value beyond the axis is drawn at its edge, and the hover text tells the true one.
function placeOf(plane, at, neuron) {
  const [x, y] = [valueOf(plane.x.column, at, neuron), valueOf(plane.y.column, at, neuron)];
  if (!isKnown(x) || !isKnown(y) || (plane.y.isLog && y <= 0)) return null;
  const inside = (value, [low, high], edge = 0.025 * (high - low)) => Math.min(high - edge, Math.max(low + edge, value));
  return [inside(x, plane.x.range), plane.y.isLog ? y : inside(y, plane.y.range)];
}

function placedNeurons(plane, at, kind = null) {
  const isKind = (neuron) => kind === null || points.kind[at][neuron] === kind;
  return points.names.map((_, neuron) => neuron).filter((neuron) => isKind(neuron) && placeOf(plane, at, neuron));
}

function pointTrace(plane, at, kind) {
  const neurons = placedNeurons(plane, at, kind), named = kind > 0;
  const places = neurons.map((neuron) => placeOf(plane, at, neuron));
  return {
    x: places.map(([x]) => x), y: places.map(([, y]) => y), hovertext: neurons.map((neuron) => hoverText(at, neuron)), hoverinfo: "text",
    type: "scatter", mode: "markers", name: named ? KIND_NAMES[kind] : "not named", showlegend: true, cliponaxis: false,
    marker: {
      color: neurons.map((neuron) => plane.colour(at, neuron, kind)), symbol: KIND_SYMBOLS[kind], size: neurons.map((neuron) => plane.size(at, neuron, kind)),
      sizemode: "diameter", opacity: named ? 1 : 0.8, line: { color: named ? KIND_COLOURS[kind] : COLOURS.card, width: named ? 2 : 0.5 },
    },
  };
}

// Each label takes the first of eight places where it covers neither a named point nor an earlier label.
function labels(plane, at, figure) {
  const margin = plane.margin(), em = FONT.size;
  const width = figure.clientWidth - margin.l - margin.r, height = figure.clientHeight - margin.t - margin.b;
  const part = (value, { range, isLog }) => ((isLog ? Math.log10(value) : value) - range[0]) / (range[1] - range[0]);
  const toPixels = (neuron) => {
    const [x, y] = placeOf(plane, at, neuron);
    return [part(x, plane.x) * width, height - part(y, plane.y) * height];
  };
  const named = placedNeurons(plane, at).filter((neuron) => points.kind[at][neuron] > 0);
  const radius = (neuron) => 0.7 * plane.size(at, neuron, points.kind[at][neuron]);
  const taken = named.map((neuron) => [...toPixels(neuron), radius(neuron)]).map(([x, y, reach]) => [x - reach, y - reach, x + reach, y + reach]);
  const isFree = (box) => box[0] > -10 && box[2] < width + margin.r && taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
  return named.map((neuron) => {
    const [x, y] = toPixels(neuron), long = 0.57 * em * points.names[neuron].length;
    for (const [turn, reach] of [2, 15, 31, 49].map((beyond) => beyond + radius(neuron)).entries()) {
      for (const [right, up] of [[1, 0], [1, 1], [-1, 0], [-1, 1], [1, -1], [-1, -1], [0, 1], [0, -1]]) {
        const middle = [x + right * (reach + long / 2), y - up * (reach + 0.57 * em)];
        const box = [middle[0] - long / 2, middle[1] - 0.57 * em, middle[0] + long / 2, middle[1] + 0.57 * em];
        if (!isFree(box)) continue;
        taken.push(box);
        return labelAt(plane, at, neuron, middle[0] - x, middle[1] - y, turn > 0);
      }
    }
    return labelAt(plane, at, neuron, 0, -14, false);
  });
}

function labelAt(plane, at, neuron, right, down, isFar) {
  const colour = KIND_COLOURS[points.kind[at][neuron]], [x, y] = placeOf(plane, at, neuron);
  return {
    x, y: plane.y.isLog ? Math.log10(y) : y, ax: right, ay: down, text: points.names[neuron],
    showarrow: true, arrowhead: 0, arrowwidth: isFar ? 0.8 : 0.001, arrowcolor: isFar ? colour : "rgba(0,0,0,0)", standoff: plane.size(at, neuron, points.kind[at][neuron]) / 2,
    font: { size: FONT.size, color: colour }, borderpad: 0,
  };
}

function emptyNotice(text) {
  return { xref: "paper", yref: "paper", x: 0.5, y: 0.5, text, showarrow: false, font: { size: 1.1 * FONT.size, color: COLOURS.quiet } };
}

// Kinds that occur at any step keep their place in the legend at all steps.
const kindsOfRun = [0, 1, 2, 3].filter((kind) => kind === 0 || points.kind.some((kinds) => kinds.includes(kind)));

function drawPlane(plane, at, { before = [], after = [], shapes = [] } = {}) {
  const figure = document.getElementById(plane.id), isEmpty = !placedNeurons(plane, at).length;
  const traces = [...before, ...kindsOfRun.map((kind) => pointTrace(plane, at, kind)), ...after];
  Plotly.react(figure, traces, layout({
    margin: plane.margin(), annotations: isEmpty ? [emptyNotice(plane.missing)] : labels(plane, at, figure), uirevision: "kept", shapes,
    xaxis: plane.x.axis(), yaxis: plane.y.axis(),
  }), LARGE);
}
