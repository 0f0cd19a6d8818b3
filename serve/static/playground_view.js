// What is seen: the pictures, how far the episode is, and what can be pressed.

/** The figure of a camera, made when it is first spoken of. */
function figureOf(camera) {
  const there = document.querySelector(`figure[data-camera="${CSS.escape(camera)}"]`);
  if (there) return there;
  const caption = make("figcaption", {}, make("span", {}, camera));
  const figure = make("figure", {}, make("canvas", { width: 288, height: 288 }), caption);
  figure.dataset.camera = camera;
  if (!find("sees")) caption.append(sees());
  caption.append(make("span", { className: "px" }));
  find("pictures").append(figure);
  return figure;
}

async function draw([camera, bytes]) {
  const figure = figureOf(camera);
  const image = await createImageBitmap(new Blob([bytes]));
  const canvas = figure.querySelector("canvas");
  if (canvas.width !== image.width) Object.assign(canvas, { width: image.width, height: image.height });
  canvas.style.imageRendering = known.modelView ? "pixelated" : "auto";
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${camera} camera at step ${known.step}`);
  figure.querySelector(".px").textContent = known.modelView ? `${image.width} px, at the last look` : "";
}

const sees = () => make("button", { type: "button", className: "sees", id: "sees", hidden: true, onclick: toggleView }, "what the model sees");

function toggleView() {
  known.modelView = !known.modelView && known.seen.size > 0;
  if (find("sees")) find("sees").textContent = known.modelView ? "what people see" : "what the model sees";
  [...(known.modelView ? known.seen : known.frames)].forEach(draw);
}

function showSteps() {
  if (!known.begun) return;
  const { limit, control_hz: hz } = known.begun;
  const looks = known.looks.length;
  find("count").textContent = `step ${known.step} of ${limit} · ${(known.step / hz).toFixed(1)} s · ${looks} look${looks === 1 ? "" : "s"}`;
  find("bar").firstChild.style.width = `${(100 * known.step) / limit}%`;
  find("bar").setAttribute("aria-valuenow", known.step);
}

function showEpisode(episode, words) {
  known.episode = episode;
  document.body.dataset.episode = episode;
  find("outcome").textContent = words;
  if (known.said) find("said").textContent = known.said;
  showButtons();
}

function showButtons() {
  const ready = known.link === "ready";
  find("run").disabled = !ready;
  find("run").textContent = running() ? "Run again" : "Run";
  find("pause").disabled = !ready || !["running", "paused"].includes(known.episode);
  find("pause").textContent = known.episode === "paused" ? "Go on" : "Pause";
  find("stop").disabled = !ready || !running();
  find("instruct").querySelector("button").disabled = !ready || !running();
  showTalk();
}

function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** Tasks, those that the model was trained on first. */
function fillTasks() {
  const robot = find("robot").value;
  const groups = [["Trained on", (task) => task.trained.includes(robot)], ["Never trained on", (task) => !task.trained.includes(robot)]];
  const chosen = find("task").value;
  find("task").replaceChildren(...groups.map(([label, belongs]) => make("optgroup", { label },
    ...known.hello.tasks.filter(belongs).map((task) => make("option", { value: task.name }, spaced(task.name))))).filter((group) => group.children.length));
  if (known.hello.tasks.some((task) => task.name === chosen)) find("task").value = chosen;
  fillPhrases();
}

function fillPhrases() {
  const task = known.hello.tasks.find((one) => one.name === find("task").value);
  const phrases = [...task.instructions, ...task.held_out];
  find("phrases").replaceChildren(...phrases.map((value) => make("option", { value })));
  find("instruction").value = "";
  find("new-instruction").placeholder = task.held_out[0] || task.instructions[0];
}
