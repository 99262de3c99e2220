// The neurons at one step, named ones first, then by effect on entropy.

let sorting = null; // {column, sign}: 1 for the largest first; null for the order of the first line

const withError = (value, error) => nats(value) + (isKnown(error) ? ` <small>± ${nats(error)}</small>` : "");
const withChance = (share, chance) => fixed(share) + (isKnown(chance) ? ` <small>(${fixed(chance)})</small>` : "");

// Heading, unit, cell and sorting value from (value of a column, neuron, step's index), style of the cell.
const TABLE_COLUMNS = [
  ["neuron", "layer.neuron", (_, neuron) => points.names[neuron], (_, neuron) => -neuron, "text"],
  ["named", "kind", (_, neuron, at) => kindCell(neuron, at), (_, neuron, at) => points.kind[at][neuron], "text"],
  ["formed", "since step", (_, neuron, at) => formedCell(neuron, at), (_, neuron, at) => firstFormed(neuron, at)],
  ["norm", "× median", (get, neuron, at) => fixed(relative(get("w_out_norm"), neuron, at, 0)), (get, neuron, at) => relative(get("w_out_norm"), neuron, at, 0)],
  ["LogitVar", "× median", (get, neuron, at) => fixed(relative(get("logit_var"), neuron, at, 1)), (get, neuron, at) => relative(get("logit_var"), neuron, at, 1)],
  ["null space", "share (chance)", (get, neuron, at) => withChance(get("null_space_share"), thresholdAt("null_space_share_chance", at, points.layer[neuron])), (get) => get("null_space_share")],
  ["entropy effect", "nats", (get) => withError(get("entropy_effect"), get("entropy_effect_stderr")), (get) => get("entropy_effect")],
  ["through norm", "share", (get) => fixed(get("entropy_norm_mediated_share")), (get) => get("entropy_norm_mediated_share")],
  ["loss effect", "nats", (get) => withError(get("loss_effect"), get("loss_effect_stderr")), (get) => get("loss_effect")],
  ["frequency effect", "nats", (get) => withError(get("kl_from_frequency_effect"), get("kl_from_frequency_effect_stderr")), (get) => get("kl_from_frequency_effect")],
  ["through frequency", "share", (get) => fixed(get("frequency_mediated_share")), (get) => get("frequency_mediated_share")],
  ["frequency", "cosine", (get) => fixed(get("frequency_cosine")), (get) => get("frequency_cosine")],
];

function kindCell(neuron, at) {
  const kind = points.kind[at][neuron];
  return kind ? `<span class="kind${kind}">${KIND_NAMES[kind]}</span>` : "";
}

function formedSteps(neuron, at) {
  const kinds = kindsAt(neuron, at), step = run.steps[at];
  const since = run.spells.name.map((_, row) => row).filter((row) =>
    run.spells.name[row] === points.names[neuron] && kinds.includes(run.spells.kind[row]) &&
    run.spells.n_clock_steps[row] >= run.spells.formed_after && run.spells.first_step[row] <= step && step <= run.spells.last_step[row]);
  return since.map((row) => run.spells.first_step[row]);
}

const kindsAt = (neuron, at) => ({ 1: ["entropy"], 2: ["token-frequency"], 3: ["entropy", "token-frequency"] }[points.kind[at][neuron]] || []);

function formedCell(neuron, at) {
  const steps = formedSteps(neuron, at);
  return steps.length ? steps.map(thousands).join(", ") : kindsAt(neuron, at).length ? "–" : "";
}

function firstFormed(neuron, at) {
  const steps = formedSteps(neuron, at);
  return steps.length ? -Math.min(...steps) : null;
}

function relative(value, neuron, at, which) {
  const median = (points.medians[at][points.layer[neuron]] || [])[which];
  return isKnown(value) && median ? value / median : null;
}

// The filters: kind at the shown step (or ever), and the beginning of layer.neuron, or of the neuron's own number.
const everNamed = new Set(points.names.map((_, neuron) => neuron).filter((neuron) => points.kind.some((kinds) => kinds[neuron] > 0)));
const IS_OF_KIND = {
  all: () => true, entropy: (kind) => kind & 1, "token-frequency": (kind) => kind & 2, ever: (_, neuron) => everNamed.has(neuron),
};

function passesFilters(neuron, at) {
  const wanted = document.getElementById("filter-name").value.trim(), name = points.names[neuron];
  const isWanted = name.startsWith(wanted) || name.endsWith(`.${wanted}`);
  return isWanted && IS_OF_KIND[document.getElementById("filter-kind").value](points.kind[at][neuron], neuron);
}

function tableOrder(at) {
  const effect = points.entropy_effect[at], isNamed = (neuron) => points.kind[at][neuron] > 0;
  const measured = points.names.map((_, neuron) => neuron).filter((neuron) => isKnown(points.w_out_norm[at][neuron]) || isKnown(effect[neuron]));
  const usual = measured.filter((neuron) => passesFilters(neuron, at)).sort((a, b) => isNamed(b) - isNamed(a) || (effect[b] ?? -1) - (effect[a] ?? -1));
  if (!sorting) return usual;
  const value = TABLE_COLUMNS[sorting.column][3];
  const values = new Map(usual.map((neuron) => [neuron, value((column) => valueOf(column, at, neuron), neuron, at)]));
  const isMissing = (neuron) => !isKnown(values.get(neuron)); // what is undefined comes last, either way
  return usual.sort((a, b) => isMissing(a) - isMissing(b) || sorting.sign * (values.get(b) - values.get(a)) || 0);
}

// A heading is a button: the largest first, the smallest first, the usual order again.
function headingCell([heading, unit, , , style], column) {
  const sorted = sorting && sorting.column === column ? (sorting.sign > 0 ? "descending" : "ascending") : "none";
  const mark = { descending: " ▾", ascending: " ▴", none: "" }[sorted];
  return `<th class="${style || ""}" aria-sort="${sorted}"><button type="button" data-column="${column}">${heading}${mark}</button><small>${unit}</small></th>`;
}

function sortBy(column, at) {
  const isSame = sorting && sorting.column === column;
  sorting = !isSame ? { column, sign: 1 } : sorting.sign > 0 ? { column, sign: -1 } : null;
  drawTable(at);
  document.querySelector(`#table button[data-column="${column}"]`).focus();
}

function rowOf(neuron, at) {
  const get = (column) => valueOf(column, at, neuron);
  const cells = TABLE_COLUMNS.map(([, , cell, , style]) => `<td class="${style || ""}">${cell(get, neuron, at)}</td>`);
  return `<tr class="${points.kind[at][neuron] ? "named" : ""}">${cells.join("")}</tr>`;
}

// The names that a reader types stand in no markup: what is said about them is set as text.
function noRow(at) {
  const row = document.createElement("tr"), cell = row.insertCell();
  cell.colSpan = TABLE_COLUMNS.length;
  cell.className = "none";
  const isKindOnly = !document.getElementById("filter-name").value.trim();
  cell.textContent = isKindOnly ? `No such neuron at step ${thousands(run.steps[at])}.` : `No neuron of that name and kind is on this page at step ${thousands(run.steps[at])}.`;
  return row;
}

function drawTable(at) {
  const order = tableOrder(at), wanted = document.getElementById("filter-rows").value;
  const shown = wanted === "all" ? order : order.slice(0, Number(wanted));
  document.querySelector("#table thead").innerHTML = `<tr>${TABLE_COLUMNS.map(headingCell).join("")}</tr>`;
  for (const button of document.querySelectorAll("#table thead button")) button.onclick = () => sortBy(Number(button.dataset.column), at);
  const body = document.querySelector("#table tbody");
  if (shown.length) body.innerHTML = shown.map((neuron) => rowOf(neuron, at)).join("");
  else body.replaceChildren(noRow(at));
  document.getElementById("table-step").textContent = thousands(run.steps[at]);
  document.getElementById("table-count").textContent = `${thousands(shown.length)} of ${thousands(order.length)} rows`;
}

function offerFilters(redraw) {
  for (const id of ["filter-kind", "filter-name", "filter-rows"]) document.getElementById(id).addEventListener("input", redraw);
  const left = points.names.length - points.n_detailed;
  if (left > 0) document.getElementById("table-note").textContent =
    `Standard errors and the effect on the loss are on this page for the ${thousands(points.n_detailed)} neurons that matter most; for the others see the records.`;
}
