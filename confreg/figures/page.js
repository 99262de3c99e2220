// The slider, its play button, and the start.

const slider = document.getElementById("step");
const play = document.getElementById("play");
const PLAY_PAUSE = 550; // milliseconds between steps
let timer = null;

function readout(step) {
  const row = modelAt(step);
  const said = [`<b>step ${thousands(step)}</b>`];
  if (isKnown(row("tokens_seen"))) said.push(`${largeNumber(row("tokens_seen"))} target tokens`);
  if (isKnown(row("loss_nats"))) said.push(`loss ${fixed(row("loss_nats"), 3)} nats`);
  const kinds = points.kind[run.steps.indexOf(step)];
  const count = (bit) => kinds.filter((kind) => kind & bit).length;
  said.push(`${count(1)} entropy, ${count(2)} token-frequency`);
  return said.join(" · ");
}

function showStep(at) {
  const step = run.steps[at];
  slider.value = at;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  document.getElementById("readout").innerHTML = readout(step);
  drawNeurons(at);
  drawSpectrum(at);
  drawTable(at);
  moveCursors(step);
}

function showNearestStep(position) {
  stop();
  const distances = run.steps.map((step) => Math.abs(stepPosition(step) - position));
  showStep(distances.indexOf(Math.min(...distances)));
}

function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
}

function start() {
  if (Number(slider.value) === run.steps.length - 1) showStep(0);
  play.textContent = "Pause";
  timer = setInterval(() => {
    const next = Number(slider.value) + 1;
    if (next >= run.steps.length) return stop();
    showStep(next);
    if (next === run.steps.length - 1) stop();
  }, PLAY_PAUSE);
}

function keepWhatTheRunHas() {
  const has = hasValues(run.model.bayes_loss_nats) ? "bayes" : "no-bayes";
  for (const part of document.querySelectorAll("[data-requires]")) if (part.dataset.requires !== has) part.remove();
  for (const grid of document.querySelectorAll(".cards")) {
    const halves = [...grid.querySelectorAll(":scope > .card:not(.wide)")];
    if (halves.length % 2) halves.at(-1).classList.add("odd");
  }
}

keepWhatTheRunHas();
slider.max = run.steps.length - 1;
slider.disabled = play.disabled = run.steps.length < 2;
slider.addEventListener("input", () => { stop(); showStep(Number(slider.value)); });
play.addEventListener("click", () => (timer === null ? start() : stop()));
document.getElementById("more").addEventListener("click", () => { showsAllRows = !showsAllRows; drawTable(Number(slider.value)); });
drawLosses();
drawCounts();
drawTimeline();
notePoints();
showStep(run.steps.length - 1);
