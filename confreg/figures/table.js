// The neurons at one step, named ones first, then by effect on entropy.

const ROWS_AT_FIRST = 16;
let showsAllRows = false;

const withError = (value, error) => nats(value) + (isKnown(error) ? ` <small>± ${nats(error)}</small>` : "");
const withChance = (share, chance) => fixed(share) + (isKnown(chance) ? ` <small>(${fixed(chance)})</small>` : "");

// Heading, unit, cell from (value of a column, neuron, step's index).
const TABLE_COLUMNS = [
  ["neuron", "layer.neuron", (_, neuron) => points.names[neuron], "text"],
  ["named", "kind", (_, neuron, at) => kindCell(neuron, at), "text"],
  ["formed", "since step", (_, neuron, at) => formedCell(neuron, at)],
  ["norm", "× median", (get, neuron, at) => fixed(relative(get("w_out_norm"), neuron, at, 0))],
  ["LogitVar", "× median", (get, neuron, at) => fixed(relative(get("logit_var"), neuron, at, 1))],
  ["null space", "share (chance)", (get) => withChance(get("null_space_share"), get("null_space_share_chance"))],
  ["entropy effect", "nats", (get) => withError(get("entropy_effect"), get("entropy_effect_stderr"))],
  ["through norm", "share", (get) => fixed(get("entropy_norm_mediated_share"))],
  ["loss effect", "nats", (get) => withError(get("loss_effect"), get("loss_effect_stderr"))],
  ["frequency effect", "nats", (get) => withError(get("kl_from_frequency_effect"), get("kl_from_frequency_effect_stderr"))],
  ["through frequency", "share", (get) => fixed(get("frequency_mediated_share"))],
  ["frequency", "cosine", (get) => fixed(get("frequency_cosine"))],
];

function kindCell(neuron, at) {
  const kind = points.kind[at][neuron];
  return kind ? `<span class="kind${kind}">${KIND_NAMES[kind]}</span>` : "";
}

function formedCell(neuron, at) {
  const kinds = { 1: ["entropy"], 2: ["token-frequency"], 3: ["entropy", "token-frequency"] }[points.kind[at][neuron]] || [];
  const step = run.steps[at];
  const since = run.spells.name.map((_, row) => row).filter((row) =>
    run.spells.name[row] === points.names[neuron] && kinds.includes(run.spells.kind[row]) &&
    run.spells.n_clock_steps[row] >= run.spells.formed_after && run.spells.first_step[row] <= step && step <= run.spells.last_step[row]);
  return since.length ? since.map((row) => thousands(run.spells.first_step[row])).join(", ") : kinds.length ? "–" : "";
}

function relative(value, neuron, at, which) {
  const median = (points.medians[at][points.layer[neuron]] || [])[which];
  return isKnown(value) && median ? value / median : null;
}

function tableOrder(at) {
  const effect = points.entropy_effect[at], isNamed = (neuron) => points.kind[at][neuron] > 0;
  const measured = [...Array(points.n_detailed).keys()].filter((neuron) => isKnown(points.w_out_norm[at][neuron]) || isKnown(effect[neuron]));
  return measured.sort((a, b) => isNamed(b) - isNamed(a) || (effect[b] ?? -1) - (effect[a] ?? -1));
}

function drawTable(at) {
  const order = tableOrder(at), named = order.filter((neuron) => points.kind[at][neuron] > 0).length;
  const shown = showsAllRows ? order : order.slice(0, Math.max(ROWS_AT_FIRST, named + 6));
  const rows = shown.map((neuron) => {
    const get = (column) => points[column][at][neuron];
    const cells = TABLE_COLUMNS.map(([, , cell, style]) => `<td class="${style || ""}">${cell(get, neuron, at)}</td>`);
    return `<tr class="${points.kind[at][neuron] ? "named" : ""}">${cells.join("")}</tr>`;
  });
  document.querySelector("#table thead").innerHTML =
    `<tr>${TABLE_COLUMNS.map(([heading, unit, , style]) => `<th class="${style || ""}">${heading}<small>${unit}</small></th>`).join("")}</tr>`;
  document.querySelector("#table tbody").innerHTML = rows.join("");
  document.getElementById("table-step").textContent = thousands(run.steps[at]);
  const more = document.getElementById("more");
  more.hidden = order.length <= ROWS_AT_FIRST && !showsAllRows;
  more.textContent = showsAllRows ? "Show fewer" : `Show ${points.n_detailed < points.n_measured ? "the" : "all"} ${thousands(order.length)}${points.n_detailed < points.n_measured ? " that matter most" : ""}`;
}
