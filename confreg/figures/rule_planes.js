// The two planes in which the rules' thresholds are lines: the null space against the norm, and the token frequencies.

const SHARE_RANGE = [-0.5, 1.08]; // shares of small effects are wild; what lies beyond is drawn at the edge
const largestEffect = {};
for (const column of ["entropy_effect", "kl_from_frequency_effect"]) {
  largestEffect[column] = points[column].flat().reduce((a, b) => Math.max(a, b ?? 0), 0) || 1;
}

// A point grows with its effect, for a share of a small effect says little.
function effectSize(column) {
  return (at, neuron, kind) => (kind ? 8 : 4) + 11 * Math.sqrt(Math.max(0, points[column][at][neuron] ?? 0) / largestEffect[column]);
}

const planeColour = (at, neuron, kind) => (kind ? KIND_COLOURS[kind] : COLOURS.point);
const planeMargin = () => ({ l: 5 * FONT.size, r: 1.5 * FONT.size, t: 0.8 * FONT.size, b: 4 * FONT.size });

const nullPlane = {
  id: "null-plane", note: "null-plane-note",
  x: { column: "null_space_share", range: [-0.03, 1.03], axis: () => valueAxis("share of the write in the null space", { range: nullPlane.x.range }) },
  y: { column: "entropy_norm_mediated_share", range: SHARE_RANGE, axis: () => valueAxis("share of the entropy effect through the norm", { range: SHARE_RANGE }) },
  colour: planeColour, size: effectSize("entropy_effect"), margin: planeMargin,
  missing: "No neuron has both shares at this step.",
};
const frequencyPlane = {
  id: "frequency-plane", note: "frequency-plane-note",
  x: { column: "frequency_cosine", range: [-1.08, 1.08], axis: () => valueAxis("cosine with the frequency direction", { range: frequencyPlane.x.range }) },
  y: { column: "frequency_mediated_share", range: SHARE_RANGE, axis: () => valueAxis("share of the loss effect through the frequencies", { range: SHARE_RANGE }) },
  colour: planeColour, size: effectSize("kl_from_frequency_effect"), margin: planeMargin,
  missing: "No neuron has both the cosine and the share at this step.",
};

const dashed = (shape) => ({ type: "line", layer: "above", line: { color: COLOURS.ink, width: 1.2, dash: "dash" }, ...shape });
const acrossAt = (y) => dashed({ xref: "paper", x0: 0, x1: 1, y0: y, y1: y });
const upAt = (x) => dashed({ yref: "paper", y0: 0, y1: 1, x0: x, x1: x });
const region = (x0, x1, y0, fillcolor) => ({ type: "rect", layer: "below", x0, x1, y0, y1: SHARE_RANGE[1], fillcolor, line: { width: 0 } });

function nullShapes(at) {
  const through = run.rules.norm_mediated_share_min;
  const chances = [...new Set(Object.values(points.thresholds[at]).map((layer) => layer.null_space_share_chance))].filter(isKnown);
  const shapes = [...chances.map(upAt), ...(isKnown(through) ? [acrossAt(through)] : [])];
  if (isKnown(through) && chances.length) shapes.push(region(Math.min(...chances), nullPlane.x.range[1], through, COLOURS.band));
  return shapes;
}

function frequencyShapes() {
  const { frequency_mediated_share_min: through, frequency_cosine_min: along } = run.rules;
  const shapes = [...(isKnown(through) ? [acrossAt(through)] : []), ...(isKnown(along) ? [upAt(along), upAt(-along)] : [])];
  if (!isKnown(through) || !isKnown(along)) return shapes;
  const [left, right] = frequencyPlane.x.range;
  return [...shapes, region(along, right, through, COLOURS.bandFrequency), region(left, -along, through, COLOURS.bandFrequency)];
}

// What the plane does not show: neurons without a share, points moved to the edge, thresholds that no configuration tells.
function notePlane(plane, at, hasThresholds) {
  const neurons = placedNeurons(plane, at), beyond = neurons.filter((neuron) => placeOf(plane, at, neuron)[1] !== valueOf(plane.y.column, at, neuron)).length;
  const measured = points.names.filter((_, neuron) => isKnown(points.w_out_norm[at][neuron])).length;
  const said = [];
  const hasFrequency = plane !== frequencyPlane || points.names.some((_, neuron) => isKnown(points.frequency_cosine[at][neuron]));
  if (!hasFrequency) said.push("There is no frequency direction at this step: every token counts alike, so that nothing can lie along it.");
  else if (measured > neurons.length) said.push(`${thousands(measured - neurons.length)} of ${thousands(measured)} neurons have no share here: their effect is too small to divide.`);
  if (beyond) said.push(`${thousands(beyond)} ${beyond === 1 ? "lies" : "lie"} beyond the axis and ${beyond === 1 ? "is" : "are"} drawn at its edge.`);
  if (!hasThresholds) said.push("No threshold is drawn: the run's config.yaml does not tell its rules.");
  document.getElementById(plane.note).textContent = said.join(" ");
}

function drawNullPlane(at) {
  drawPlane(nullPlane, at, { shapes: nullShapes(at) });
  notePlane(nullPlane, at, isKnown(run.rules.norm_mediated_share_min));
}

function drawFrequencyPlane(at) {
  drawPlane(frequencyPlane, at, { shapes: frequencyShapes() });
  notePlane(frequencyPlane, at, isKnown(run.rules.frequency_cosine_min));
}
