// The conversation: a question goes to /v1/chat/completions with the scene as the model sees it at that moment.

const SUGGESTED = [
  "Which way should the robot move its gripper now?",
  "Does the cube lie to the left or to the right of the goal?",
  "What is the position of the gripper?",
];
const ANSWER_TOKENS = 128;

/** Turns about one picture; a new picture begins a new conversation. `waiting`: a question whose picture is fetched. */
const talk = { picture: "", turns: [], waiting: null, asking: null };

function showTalk() {
  const able = known.link === "ready" && known.hello && known.hello.chat && known.frames.size > 0;
  const busy = Boolean(talk.waiting || talk.asking);
  find("question").disabled = !able;
  const button = find("ask").querySelector("button");
  button.disabled = !able;
  button.textContent = busy ? "Stop" : "Ask";
  for (const chip of find("suggestions").children) chip.disabled = !able || busy;
  if (known.hello && !known.hello.chat) {
    find("talk-hint").textContent = "This server was started for actions only; it has nobody to talk to. Start it with conversation (chat.enabled) to ask about pictures.";
  }
  find("suggestions").hidden = Boolean(known.hello && !known.hello.chat);
}

function addTurn(kind, ...content) {
  const turn = make("li", { className: kind }, ...content);
  find("talk").append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn;
}

/** Ask; the picture comes as an event of its own. */
function ask(question) {
  if (!question.trim() || talk.waiting || talk.asking) return;
  talk.waiting = question.trim();
  find("question").value = "";
  send({ do: "picture" });
  showTalk();
}

/** The server's picture for the question that waits: [camera, PNG] each. */
function pictureCame(pictures) {
  const question = talk.waiting;
  talk.waiting = null;
  if (!question) return;
  const uris = pictures.map(([, bytes]) => `data:image/png;base64,${encoded(bytes)}`);
  if (uris.join() !== talk.picture) {
    talk.picture = uris.join();
    talk.turns = [];
  }
  const images = talk.turns.length ? [] : uris.map((url) => ({ type: "image_url", image_url: { url } }));
  talk.turns.push({ role: "user", content: [...images, { type: "text", text: question }] });
  const shown = uris.map((url, place) => make("img", { src: url, alt: pictures[place][0] }));
  addTurn("mine", ...shown, make("span", {}, question));
  answer(addTurn("theirs", "…"));
}

async function answer(turn) {
  talk.asking = new AbortController();
  showTalk();
  const began = performance.now();
  let text = "";
  let first = 0;
  try {
    const reply = await fetch("/v1/chat/completions", {
      method: "POST", signal: talk.asking.signal, headers: authorized({ "Content-Type": "application/json" }),
      body: JSON.stringify({ model: "BLM", messages: talk.turns, max_tokens: ANSWER_TOKENS, temperature: 0, stream: true }),
    });
    if (!reply.ok) throw new Error(await refusal(reply));
    for await (const piece of pieces(reply)) {
      first = first || performance.now() - began;
      text += piece;
      turn.textContent = text;
      turn.scrollIntoView({ block: "nearest" });
    }
    turn.textContent = text.trim() || "(no words)";
    turn.append(make("small", { className: "number" }, `first word after ${milliseconds(first)}, all after ${milliseconds(performance.now() - began)}`));
    talk.turns.push({ role: "assistant", content: text });
  } catch (error) {
    talk.turns = [];
    talk.picture = "";
    if (error.name === "AbortError") turn.append(make("small", {}, "stopped"));
    else {
      turn.className = "theirs wrong";
      turn.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
    }
  } finally {
    talk.asking = null;
    showTalk();
  }
}

/** What a refused request says, in words. */
async function refusal(reply) {
  if (reply.status === 404) return "This server has no conversation; it was started for actions only.";
  try {
    const body = await reply.json();
    return body.error.message;
  } catch {
    return `The server refuses (status ${reply.status}).`;
  }
}

/** The texts of a stream of server-sent events. */
async function* pieces(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:") || line.includes("[DONE]")) continue;
      const chunk = JSON.parse(line.slice(5));
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices && chunk.choices[0] && chunk.choices[0].delta && chunk.choices[0].delta.content;
      if (piece) yield piece;
    }
  }
}

find("suggestions").append(...SUGGESTED.map((text) => make("button", { type: "button", disabled: true, onclick: () => ask(text) }, text)));
find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (talk.asking) talk.asking.abort();
  else ask(find("question").value);
});
