// The operator's page.  It shows the newest snapshot and sends presses; it decides nothing.

import { bindStop, nonce, send, sendStop } from "/stop.js";

const LOST_MS = 2000; // silence after which nothing on the page may be believed
const OLD_FRAME_S = 1;
const DOUBLE_MS = 300; // two presses of one button within this time are one
const CONFIRM_MS = 5000;
const STOP_CONFIRM_MS = 2000; // the session confirms its stop within this time, or a person must look
const FRAME_MS = 100;
const PRESS_S = 2; // age at which the session takes a press no more
const ANSWER_MS = 3000;
const SETTLE_MS = 10000;

const WORDS = {
  IDLE: "Idle", HOMING: "Homing", AWAIT_RESET: "Your turn: reset", RUNNING: "Running", INTERVENTION: "You have the arm", STOPPING: "Stopping",
  AWAIT_LABEL: "Your turn: label", COMMIT: "Saving", PAUSED: "Paused", FAULT: "Fault", ESTOP: "E-stop", DONE: "Done",
};
const HUES = {
  HOMING: "moves", RUNNING: "moves", STOPPING: "moves", AWAIT_RESET: "turn", AWAIT_LABEL: "turn", INTERVENTION: "person", FAULT: "stop",
  ESTOP: "stop", DONE: "done",
};
const PHASES = { evaluate_before: "evaluation before", train: "training", evaluate_after: "evaluation after" };
const KEYS = { 1: "success", 0: "failure", d: "discard", r: "reset_done", p: "pause", " ": "estop", Escape: "estop" };
const LABELS = ["success", "failure", "discard"];

const $ = (id) => document.getElementById(id);
let now = null; // the newest snapshot
let heard = -Infinity; // when the stream last spoke
let silence = null; // how long the session has been silent, as the server says [s]; null: it has never spoken
let correcting = null; // the episode whose label is being corrected

// -- small tools ------------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function draw(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

function text(id, value) {
  const node = $(id);
  if (node.textContent !== value) node.textContent = value;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const clock = (at) => new Date(1000 * at).toLocaleTimeString([], { hour12: false });
const short = (value) => (value === null ? "unknown" : value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : String(+value.toPrecision(3)));

const shown = new Map();
/** Redraw a part only when its value has changed: a list under a finger must not be rebuilt five times a second. */
function part(name, value, redraw) {
  const key = JSON.stringify(value);
  if (shown.get(name) === key) return;
  shown.set(name, key);
  redraw();
}

// -- presses ----------------------------------------------------------------------------------------------------------

const pressed = new Map();
/** The second of two quick clicks is no press: it must neither resume what the first has paused nor confirm what it has asked. */
function twice(button) {
  const at = performance.now();
  if (at - (pressed.get(button) ?? -Infinity) < DOUBLE_MS) return true;
  pressed.set(button, at);
  return false;
}

async function post(body, timeout) {
  const answer = await send(body, timeout);
  if (answer.status === 401) location.assign("/login");
  return { ok: answer.ok, ...(await answer.json()) };
}

function say(words, bad = false) {
  $("said").classList.toggle("bad", bad);
  text("said", words);
}

async function press(kind, episode = null, extra = {}) {
  const body = { kind, episode, nonce: nonce(), seq: now.seq, at: now.at, ...extra };
  const what = kind.replace("_", " ") + (episode === null ? "" : `, episode ${episode}`);
  try {
    const outcome = await post(body, ANSWER_MS);
    if (outcome.status === "failed") return settle(body, what);
    say(outcome.ok ? outcome.text || `Sent: ${what}` : `Refused: ${what}. ${outcome.text}`, !outcome.ok);
  } catch {
    await settle(body, what);
  }
}

let stopping = false;

async function estop() {
  if (stopping) return;
  stopping = true;
  $("estop").classList.add("sending");
  await sendStop((tries) => {
    text("estop-note", tries === 1 ? "sending" : `sending, try ${tries}`);
    if (tries === 2) say("The e-stop does not get through. Use the robot's own stop.", true);
  });
  stopping = false;
  $("estop").classList.remove("sending");
  text("estop-note", "Space or Escape");
  say("E-stop sent");
  for (const end = performance.now() + STOP_CONFIRM_MS; performance.now() < end && !stopping; ) {
    if (live() && now?.state === "ESTOP") return say("E-stop confirmed");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  if (!stopping) say("E-stop sent, but not confirmed. Use the robot's own stop.", true);
}

/** Wait for the stream to show the outcome of a press without answer; once it is too old, the session refuses it. */
async function settle(body, what) {
  say(`No answer yet: ${what}`, true);
  for (const end = performance.now() + SETTLE_MS; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 100))) {
    const answer = now.answers.find((known) => known.nonce === body.nonce);
    if (answer) return say(answer.refusal ? `Refused: ${what}. ${answer.refusal}` : `Sent: ${what}`, Boolean(answer.refusal));
    if (live() && now.at > body.at + PRESS_S) return say(`Not sent: ${what}. Press again.`, true);
  }
  say(`No answer: ${what}. Look at the arm before you press again.`, true);
}

let asked = 0;
let askedSeq = null;

/** Ask twice before `clear`, which lets a stopped arm move again. */
function clearStop() {
  const button = document.querySelector('[data-kind="clear"]');
  if (button.classList.contains("sure")) {
    unask();
    press("clear", null, { confirmed: true });
  } else {
    button.classList.add("sure");
    askedSeq = now.seq;
    button.firstChild.textContent = "All clear? Press again";
    asked = setTimeout(unask, CONFIRM_MS);
  }
}

function unask() {
  const button = document.querySelector('[data-kind="clear"]');
  clearTimeout(asked);
  button.classList.remove("sure");
  button.firstChild.textContent = "Clear stop";
}

function can(kind) {
  return now !== null && live() && now.allowed.includes(kind);
}

function act(kind) {
  if (kind === "estop") return void estop();
  const button = kind;
  if (kind === "pause" && now?.paused) kind = "resume";
  if (!can(kind) || twice(button)) return;
  if (kind === "clear") clearStop();
  else if (LABELS.includes(kind)) press(kind, now.label_episode);
  else press(kind, kind === "reset_done" ? now.episode : null);
}

for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", () => act(button.dataset.kind));
bindStop($("estop"), estop);

addEventListener("keydown", (event) => {
  const kind = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!kind || ((event.ctrlKey || event.metaKey || event.altKey) && kind !== "estop")) return;
  event.preventDefault(); // space must neither scroll nor press what has the focus
  if (!event.repeat) act(kind);
});
addEventListener("keyup", (event) => event.key === " " && event.preventDefault());

// -- the stream -------------------------------------------------------------------------------------------------------

const live = () => performance.now() - heard < LOST_MS && silence !== null && 1000 * silence < LOST_MS;

function listen() {
  const stream = new EventSource("/stream");
  stream.onmessage = (event) => {
    const message = JSON.parse(event.data);
    heard = performance.now();
    silence = message.age_s;
    if (message.snapshot) now = message.snapshot;
    show(message.frames);
  };
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    setTimeout(listen, 1000);
    fetch("/page.js").then((answer) => answer.status === 401 && location.assign("/login"), () => {});
  };
}

function showLink() {
  const mute = performance.now() - heard >= LOST_MS;
  const alive = live();
  document.body.dataset.link = alive ? "live" : "lost";
  text("link", alive ? "live" : mute ? "lost" : "silent");
  if (mute) text("lost", heard === -Infinity ? "Wait: connecting to the session" : "Connection lost: this page is old. Use the e-stop, or the robot's own stop.");
  else if (silence === null) text("lost", "Wait for the session");
  else if (!alive) text("lost", `Keep clear: the session is silent for ${Math.round(silence)} s, this page is old.`);
  showButtons();
}

function showButtons() {
  for (const button of document.querySelectorAll("[data-kind]")) {
    const kind = button.dataset.kind === "pause" && now?.paused ? "resume" : button.dataset.kind;
    button.disabled = !can(kind);
    if (button.dataset.kind === "pause") button.firstChild.textContent = kind === "resume" ? "Resume" : "Pause";
    if (kind === "clear" && (button.disabled || now?.seq !== askedSeq)) unask();
    if (LABELS.includes(kind) && now?.label_episode) button.querySelector(".which").textContent = `episode ${now.label_episode}`;
  }
  for (const button of document.querySelectorAll(".rows .mini")) button.disabled = !live();
}

function show(frames) {
  if (now === null) return showLink();
  document.body.dataset.hue = HUES[now.state] ?? "rest";
  text("task", now.task);
  text("session", now.session);
  text("world", now.simulated ? "simulated" : "hardware");
  $("world").classList.toggle("hardware", !now.simulated);
  text("mode", now.mode);
  text("weights", now.weights === null ? "start policy" : `weights v${now.weights}`);
  text("state", WORDS[now.state] ?? now.state);
  text("phase", now.phase ? `${PHASES[now.phase]}, ${now.phase_done} of ${now.phase_episodes}` : "plan done");
  text("episode", String(now.episode));
  text("prompt", now.prompt);
  text("rule", now.rule);
  const running = now.step !== null && now.episode_steps;
  $("progress").firstChild.style.width = running ? `${Math.min(100, (100 * now.step) / now.episode_steps)}%` : "0";
  text("steps", running ? `step ${now.step} of ${now.episode_steps}${now.clips ? `, ${now.clips} clipped` : ""}` : "\u00a0");
  part("success", [now.recent, now.success_curve, now.by_phase], showSuccess);
  part("arms", now.arms, showArms);
  part("processes", now.processes, showProcesses);
  part("curves", now.curves, showCurves);
  part("events", now.events, showEvents);
  part("episodes", [now.episodes, correcting], showEpisodes);
  part("limits", [now.limits, now.limits_digest], showLimits);
  part("cameras", now.cameras, showCameras);
  for (const figure of document.querySelectorAll("figure")) {
    const age = frames[figure.dataset.camera];
    const old = age === undefined || age > OLD_FRAME_S;
    figure.classList.toggle("old", old);
    figure.lastChild.textContent = figure.dataset.camera + (age === undefined ? ": no image" : old ? `: ${age.toFixed(1)} s old` : "");
  }
  showLink();
}

// -- parts ------------------------------------------------------------------------------------------------------------

function showSuccess() {
  const recent = now.recent;
  text("window", recent ? `training, last ${recent.episodes} labelled` : "no training episode labelled yet");
  text("rate", recent ? percent(recent.successes / recent.episodes) : "\u2013");
  text("interval", recent ? `${recent.successes} of ${recent.episodes}, 95 % interval ${Math.round(100 * recent.low)} to ${percent(recent.high)}` : "");
  const [range, mark] = $("bar").children;
  $("bar").hidden = !recent;
  if (recent) {
    range.style.left = `${100 * recent.low}%`;
    range.style.right = `${100 * (1 - recent.high)}%`;
    mark.style.left = `${(100 * recent.successes) / recent.episodes}%`;
  }
  const curve = now.success_curve;
  plot($("success-curve"), curve.map((p) => [p.episode, p.successes / p.episodes]), {
    y: [0, 1], format: percent, good: true, height: 150, band: curve.map((p) => [p.episode, p.low, p.high]),
    marks: curve.map((p) => [p.episode, p.label === "success" ? "hit" : "miss"]),
    breaks: curve.filter((p, i) => i && p.phase !== curve[i - 1].phase).map((p) => p.episode - 0.5),
  });
  $("by-phase").replaceChildren(...Object.entries(now.by_phase).map(([kind, s]) => make("tr", {},
    make("td", { textContent: PHASES[kind] }), make("td", { textContent: `${s.successes} of ${s.episodes}` }),
    make("td", { textContent: percent(s.successes / s.episodes) }),
    make("td", { className: "faint", textContent: `${Math.round(100 * s.low)} to ${percent(s.high)}` }))));
}

/** Draw a line with two axes. */
function plot(svg, points, { y = null, format = short, good = false, height, band = [], marks = [], breaks = [] }) {
  const width = Math.max(200, svg.clientWidth || 400);
  const [left, right, top, bottom] = [46, 8, 8, marks.length ? 30 : 18];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  if (!points.length) return;
  const xs = points.map((p) => p[0]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = y ?? [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const px = (x) => left + ((width - left - right) * (x - x0)) / (x1 - x0 || 1);
  const py = (v) => height - bottom - ((height - top - bottom) * (v - y0)) / (y1 - y0);
  for (const v of [y0, (y0 + y1) / 2, y1]) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: py(v), y2: py(v) }));
    svg.append(draw("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, format(v)));
  }
  for (const x of breaks) svg.append(draw("line", { class: "phase", x1: px(x), x2: px(x), y1: top, y2: height - bottom }));
  if (band.length) {
    const edge = [...band.map((b) => [b[0], b[2]]), ...band.toReversed().map((b) => [b[0], b[1]])];
    svg.append(draw("polygon", { class: "band", points: edge.map(([x, v]) => `${px(x)},${py(v)}`).join(" ") }));
  }
  svg.append(draw("polyline", { class: good ? "line good" : "line", points: points.map(([x, v]) => `${px(x)},${py(v)}`).join(" ") }));
  const dot = Math.max(1, Math.min(3, (width - left - right) / marks.length / 2.6));
  for (const [x, kind] of marks) svg.append(draw("circle", { class: kind, cx: px(x), cy: height - bottom + (kind === "hit" ? 7 : 13), r: dot }));
  svg.append(draw("text", { x: left, y: height - 2 }, short(x0)), draw("text", { x: width - right, y: height - 2, "text-anchor": "end" }, short(x1)));
}

function showCurves() {
  const boxes = now.curves.map((curve) => {
    const final = curve.points.at(-1);
    const svg = draw("svg", { class: "chart", role: "img", "aria-label": curve.name });
    const box = make("div", { className: "curve" },
      make("div", {}, make("span", { textContent: curve.name }), make("b", { textContent: final ? short(final[1]) : "none yet" })), svg);
    return [box, () => plot(svg, curve.points, { height: 86 })];
  });
  $("curves").replaceChildren(...boxes.map(([box]) => box));
  for (const [, fill] of boxes) fill();
  if (!boxes.length) $("curves").append(make("p", { className: "faint", textContent: "Nothing learned yet." }));
}

function showArms() {
  $("arms").replaceChildren(...now.arms.map((arm) => make("div", { className: "arm" },
    make("div", { className: "arm-line" }, make("i", { className: arm.ok ? "dot" : "dot bad" }), make("span", { textContent: `${arm.name}: ${arm.mode}` })),
    ...arm.errors.map((error) => make("p", { className: "wrong", textContent: error })), ...arm.gauges.map(gauge))));
}

function gauge({ name, value, limit, unit }) {
  const share = value === null || !limit ? 0 : Math.abs(value) / limit;
  const words = `${short(value)}${limit === null ? "" : ` of ${short(limit)}`} ${value === null && limit === null ? "" : unit}`;
  const fill = make("i");
  fill.style.width = `${Math.min(100, 100 * share)}%`;
  return make("div", { className: `gauge ${share >= 1 ? "over" : share >= 0.8 ? "near" : ""}` },
    make("div", {}, make("span", { textContent: name }), make("span", { textContent: words })),
    limit === null ? null : make("span", { className: "track" }, fill));
}

function showProcesses() {
  $("processes").replaceChildren(...now.processes.map((p) => {
    const silent = p.age_s === null || p.age_s > p.limit_s;
    return make("div", {}, make("i", { className: p.age_s === null ? "dot none" : silent ? "dot bad" : "dot" }), make("span", { textContent: p.name }),
      make("span", { className: silent ? "wrong" : "faint", textContent: p.age_s === null ? "never heard" : silent ? `silent for ${p.age_s.toFixed(1)} s` : `${p.age_s.toFixed(1)} s` }),
      p.restarts ? make("span", { className: "faint", textContent: `restarts: ${p.restarts}` }) : null);
  }));
}

function showEvents() {
  const rows = now.events.toReversed().map((event) => make("li", { className: event.level },
    make("span", { className: "faint", textContent: clock(event.at) }), make("b", { textContent: event.count > 1 ? `${event.kind}, ${event.count} times` : event.kind }), make("span", { textContent: event.reason })));
  $("events").replaceChildren(...rows);
}

function showEpisodes() {
  const head = make("tr", {}, ...["", "phase", "label", "steps", "ended by", "weights", "clips", ""].map((name) => make("th", { textContent: name })));
  const rows = now.episodes.toReversed().flatMap((row) => {
    const open = correcting === row.number;
    const line = make("tr", {}, make("td", { textContent: row.number }), make("td", { textContent: PHASES[row.phase] }),
      make("td", {}, make("span", { className: `chip ${row.label ?? "none"}`, textContent: row.label ?? "no label", title: row.author ? `by ${row.author}` : "" })),
      make("td", { textContent: row.steps }), make("td", { textContent: row.stop + (row.intervened ? ", intervened" : "") }),
      make("td", { textContent: row.version === null ? "start" : `v${row.version}` }), make("td", { textContent: row.clips || "" }),
      make("td", { className: "right" }, make("button", {
        className: "mini change", textContent: open ? "Cancel" : row.label ? "Correct" : "Label", onclick: () => correct(open ? null : row.number),
        ariaLabel: `Correct the label of episode ${row.number}`,
      })));
    if (!open) return [line];
    const choices = LABELS.filter((label) => label !== row.label).map((label) => make("button", {
      className: `mini ${label}`, textContent: label, onclick: () => { press(label, row.number); correct(null); },
    }));
    return [line, make("tr", { className: "correct" }, make("td"), make("td", { colSpan: 7 }, `Label episode ${row.number}: `, ...choices))];
  });
  $("episodes").replaceChildren(head, ...rows);
}

function correct(number) {
  correcting = number;
  part("episodes", [now.episodes, correcting], showEpisodes);
}

function showLimits() {
  $("limits").replaceChildren(...now.limits.map((row) => make("tr", {}, make("td", { textContent: row.name }), make("td", { textContent: row.value }))));
  text("digest", now.limits_digest ? `digest ${now.limits_digest.slice(0, 16)}` : "");
}

// -- images -----------------------------------------------------------------------------------------------------------

function showCameras() {
  $("cameras").replaceChildren(...now.cameras.map((name) => {
    const figure = make("figure", {}, make("img", { alt: "" }), make("figcaption", { textContent: name }));
    figure.dataset.camera = name;
    refresh(figure);
    return figure;
  }));
}

/** Load the latest image again and again: one request at a time, so a slow link skips images and shows no old ones. */
function refresh(figure) {
  const next = make("img", { alt: `Camera ${figure.dataset.camera}` });
  let over = false;
  const again = (wait) => {
    if (over) return;
    over = true;
    setTimeout(() => figure.isConnected && refresh(figure), wait);
  };
  next.onload = () => { if (!over) figure.replaceChild(next, figure.firstChild); again(FRAME_MS); };
  next.onerror = () => again(1000);
  setTimeout(() => again(0), 3000);
  if (document.hidden) return again(500);
  next.src = `/camera/${figure.dataset.camera}.jpg?at=${Math.round(performance.now())}`;
}

addEventListener("resize", () => { shown.clear(); });
setInterval(showLink, 250);
showLink();
listen();
