// The slider, its play button, and the start.

const slider = document.getElementById("step");
const play = document.getElementById("play");
const PLAY_PAUSE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1500 : 550; // milliseconds between steps
let timer = null;

const shownAt = () => Number(slider.value);

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

// What follows the slider is drawn when it can be seen: a run of thousands of neurons stays quick.
const AT_STEP = { neurons: drawNeurons, spectrum: drawSpectrum, "null-plane": drawNullPlane, "frequency-plane": drawFrequencyPlane, table: drawTable };
const drawnAt = new Map();
const isSeen = new Set();

function drawIfStale(id) {
  if (drawnAt.get(id) === shownAt()) return;
  drawnAt.set(id, shownAt());
  AT_STEP[id](shownAt());
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) isSeen.add(target.id);
    else isSeen.delete(target.id);
    if (isIntersecting) drawIfStale(target.id);
  }
}, { rootMargin: "200px" });

// One after the other, from the top of the page, so that its first screen is there at once.
const waiting = [];

function drawWaiting() {
  const next = waiting.shift();
  if (!next) return;
  next();
  setTimeout(drawWaiting);
}

function drawAll() {
  drawnAt.clear();
  waiting.splice(0, waiting.length, drawModel, drawCounts, drawTimeline, drawTrajectories, ...Object.keys(AT_STEP).map((id) => () => drawIfStale(id)));
  drawWaiting();
}

// Paper shows what no screen has shown yet.
function drawAllNow() {
  drawAll();
  while (waiting.length) waiting.shift()();
}

function showStep(at) {
  const step = run.steps[at];
  slider.value = at;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  document.getElementById("readout").innerHTML = readout(step);
  overSteps.forEach(moveCursor);
  isSeen.forEach(drawIfStale);
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
  if (shownAt() === run.steps.length - 1) showStep(0);
  play.textContent = "Pause";
  timer = setInterval(() => {
    const next = shownAt() + 1;
    if (next >= run.steps.length) return stop();
    showStep(next);
    if (next === run.steps.length - 1) stop();
  }, PLAY_PAUSE);
}

slider.max = run.steps.length - 1;
slider.disabled = play.disabled = run.steps.length < 2;
slider.addEventListener("input", () => { stop(); showStep(shownAt()); });
play.addEventListener("click", () => (timer === null ? start() : stop()));
notePoints();
offerFilters(() => drawTable(shownAt()));
showStep(run.steps.length - 1);
offerLooks(drawAll, drawAllNow);
for (const id of Object.keys(AT_STEP)) seen.observe(document.getElementById(id));
