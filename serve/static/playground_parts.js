"use strict";
// Small things that the other parts share: finding and making elements, what is known, and words.

const find = (id) => document.getElementById(id);

/** An element with attributes and children; texts are never parsed as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** All that the page knows. `episode`: idle, starting, running, paused, success, failure, stopped or error. */
const known = {
  hello: null, link: "connecting", episode: "idle", begun: null, step: 0, looks: [], said: "",
  frames: new Map(), seen: new Map(), modelView: false, key: sessionStorage.getItem("key") || "",
};

const OUTCOMES = {
  success: "Done", stopped: "Stopped",
  not_reached: "Time is up: the hand never came near the object",
  not_moved: "Time is up: the hand came near the object but did not move it",
  dropped: "Time is up: the object was lifted, and fell",
  not_at_goal: "Time is up: the object was moved, but not to the goal",
};
const ROBOTS = { panda: "Franka Panda", xarm6: "xArm 6", xarm7: "xArm 7", widowxai: "WidowX AI" };

const spaced = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase().replace(/^./, (letter) => letter.toUpperCase());
const robotName = (name) => ROBOTS[name] || name;
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const running = () => ["starting", "running", "paused"].includes(known.episode);
const authorized = (headers = {}) => (known.key ? { ...headers, Authorization: `Bearer ${known.key}` } : headers);

/** base64 of bytes, for data URIs. */
function encoded(bytes) {
  let text = "";
  for (let first = 0; first < bytes.length; first += 8192) text += String.fromCharCode(...bytes.subarray(first, first + 8192));
  return btoa(text);
}

/** A binary frame of the server: its event, with `pictures` as [camera, bytes]. */
function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const event = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let first = 4 + length;
  event.pictures = event.pictures.map(([camera, size]) => {
    const bytes = new Uint8Array(buffer, first, size);
    first += size;
    return [camera, bytes];
  });
  return event;
}
