// Who was named when: one row for each neuron, a bar for each spell.

function spellTrace(kind, formed) {
  const { order, name, first_step, last_step, n_clock_steps, formed_after } = run.spells;
  const x = [], y = [], text = [];
  name.forEach((each, index) => {
    if (run.spells.kind[index] !== kind || (n_clock_steps[index] >= formed_after) !== formed) return;
    const isBoth = name.some((other, at) => other === each && run.spells.kind[at] !== kind);
    const row = order.indexOf(each) + (isBoth ? (kind === "entropy" ? -0.2 : 0.2) : 0);
    const said = `<b>${each}</b> · ${kind} neuron<br>named from step ${thousands(first_step[index])} to ${thousands(last_step[index])} (${n_clock_steps[index]} clock steps)`;
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
  const rows = {
    range: [order.length - 0.4, -0.6], tickvals: order.map((_, row) => row), ticktext: order, gridcolor: COLOURS.grid, zeroline: false, fixedrange: true,
  };
  const left_out = n_named - order.length;
  const title = left_out ? `layer.neuron (${left_out} brief ones not shown)` : "layer.neuron";
  document.getElementById("timeline").style.height = `${FONT.size * (9 + 1.55 * order.length)}px`;
  drawOverSteps("timeline", traces, { ...rows, title: { text: title, standoff: 10, font: { size: FONT.size } }, automargin: true });
}
