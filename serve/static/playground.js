// The page's life: the connection, what the server tells, what the person does.

let socket = null;
let tries = 0;
let retry = 0;

// ------------------------------------------------------------------------------------------------------ connection

function connect() {
  clearTimeout(retry);
  showLink("connecting", tries ? "Connecting again…" : "Connecting…");
  const protocols = ["blm"];
  if (known.key) protocols.push(`blm-key.${known.key}`); // a browser cannot set headers here
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opening = new WebSocket(`${scheme}//${location.host}/playground/live`, protocols);
  opening.binaryType = "arraybuffer";
  let opened = false;
  opening.onopen = () => { opened = true; send({ do: "enter", key: known.key }, opening); };
  opening.onmessage = (message) => heard(typeof message.data === "string" ? JSON.parse(message.data) : unpacked(message.data));
  opening.onclose = () => { if (socket === opening) lost(opened); };
  socket = opening;
}

function send(command, to = socket) {
  if (to && to.readyState === WebSocket.OPEN) to.send(JSON.stringify(command));
}

/** The connection is gone: ask for a key if that is why, otherwise try again by and by. */
async function lost(opened) {
  if (running()) showEpisode("stopped", "The server is gone");
  talk.waiting = null;
  if (known.link === "refused") return;
  if (!opened && await needsKey()) {
    showLink("refused", "Locked");
    notice(known.key ? "The server does not know this key." : "This server wants a key.", { key: true });
    return;
  }
  tries += 1;
  const wait = Math.min(2 ** tries, 15);
  showLink("gone", "Server gone");
  notice(`The server does not answer. Trying again in ${wait} s.`, { retry: true });
  retry = setTimeout(connect, 1000 * wait);
}

async function needsKey() {
  try {
    const reply = await fetch("/v1/models", { headers: authorized() });
    return reply.status === 401 || reply.status === 403;
  } catch {
    return false;
  }
}

function showLink(link, words) {
  known.link = link;
  document.body.dataset.link = link;
  find("link-words").textContent = words;
  if (link === "ready") { tries = 0; find("notice").hidden = true; }
  showButtons();
}

function notice(words, { key = false, retry: again = false } = {}) {
  find("notice-words").textContent = words;
  find("key-form").hidden = !key;
  find("retry").hidden = !again;
  find("notice").hidden = false;
  if (key) find("key").focus();
}

// --------------------------------------------------------------------------------------------- what the server tells

function heard(event) {
  const tell = { hello, begun, frame, look, over, paused, picture: (it) => pictureCame(it.pictures), trouble }[event.event];
  if (tell) tell(event);
}

function hello(event) {
  known.hello = event;
  find("model").textContent = `${event.model.name}${event.model.identity ? ` ${event.model.identity.slice(0, 8)}` : ""} · chunks of ${event.chunk}, a look every ${event.execute_steps} steps`;
  fill(find("robot"), event.robots.map(({ name }) => [name, robotName(name)]));
  fillTasks();
  event.cameras.forEach(figureOf);
  showLink("ready", "Connected");
}

function begun(event) {
  Object.assign(known, { begun: event, step: 0, looks: [], said: event.instruction });
  known.seen.clear();
  find("who").textContent = `${robotName(event.robot)} · ${spaced(event.task)} · scene ${event.seed - known.hello.first_seed}`;
  find("looks-on-bar").replaceChildren();
  find("bar").setAttribute("aria-valuemax", event.limit);
  showEpisode("running", "Running");
  drawChart();
}

function frame(event) {
  known.step = event.step;
  known.frames = new Map(event.pictures);
  if (!known.modelView) event.pictures.forEach(draw);
  showSteps();
  showTalk();
}

function look(event) {
  known.looks.push({ ...event, number: known.looks.length + 1 });
  known.seen = new Map(event.pictures);
  known.said = event.instruction;
  find("said").textContent = known.said;
  find("sees").hidden = false;
  find("looks-on-bar").append(make("b", { style: `left: ${(100 * event.step) / known.begun.limit}%` }));
  if (known.modelView) event.pictures.forEach(draw);
  showSteps();
  drawChart();
}

function over(event) {
  if (event.steps !== undefined) known.step = event.steps;
  const time = event.seconds ? ` after ${event.seconds.toFixed(1)} s` : "";
  if (event.outcome === "success") showEpisode("success", `Done${time}`);
  else if (event.outcome === "error") showEpisode("error", `It could not go on: ${event.detail}`);
  else showEpisode(event.outcome === "stopped" ? "stopped" : "failure", OUTCOMES[event.outcome] || event.outcome);
  showSteps();
}

function paused(event) {
  if (running()) showEpisode(event.paused ? "paused" : "running", event.paused ? "Paused" : "Running");
}

function trouble(event) {
  talk.waiting = null;
  if (!known.hello || known.link === "connecting") known.link = "refused";
  notice(event.message, { retry: known.link === "refused" });
  if (known.link === "refused") showLink("refused", "No place");
  if (known.episode === "starting") showEpisode("error", "It could not start");
  showTalk();
}

// --------------------------------------------------------------------------------------------- what the person does

function run() {
  if (known.link !== "ready" || !find("setup").reportValidity()) return;
  known.modelView = false;
  known.said = find("instruction").value.trim();
  showEpisode("starting", "Setting the scene…");
  send({ do: "start", robot: find("robot").value, task: find("task").value, seed: known.hello.first_seed + Number(find("scene").value || 0), instruction: known.said });
}

const pause = () => { if (running()) send({ do: known.episode === "paused" ? "resume" : "pause" }); };
const stop = () => { if (running()) send({ do: "stop" }); };

find("setup").addEventListener("submit", (event) => { event.preventDefault(); run(); });
find("pause").addEventListener("click", pause);
find("stop").addEventListener("click", stop);
find("robot").addEventListener("change", fillTasks);
find("task").addEventListener("change", fillPhrases);
find("another").addEventListener("click", () => { find("scene").value = Math.floor(1000 * Math.random()); });
find("retry").addEventListener("click", () => { known.link = "connecting"; connect(); });
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  known.key = find("key").value.trim();
  sessionStorage.setItem("key", known.key);
  known.link = "connecting";
  connect();
});
find("instruct").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = find("new-instruction");
  if (!field.value.trim()) return;
  send({ do: "instruct", instruction: field.value.trim() });
  field.value = "";
});
document.addEventListener("click", (event) => {
  if (event.detail && event.target.tagName === "BUTTON") event.target.blur(); // Space pauses, it does not press again
});
document.addEventListener("keydown", (event) => {
  const { tagName } = event.target;
  const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(tagName) || (tagName === "BUTTON" && event.key === " ");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { if (writing) event.target.blur(); else stop(); return; }
  if (writing) return;
  const todo = { r: run, " ": pause, i: () => find("new-instruction").focus(), t: () => find("question").focus(), m: toggleView }[event.key.toLowerCase()];
  if (todo) { event.preventDefault(); todo(); }
});

drawChart();
connect();
