// The chart of looks: one bar a look, stacked by where its time went. The last thirty are shown.

const PARTS = [
  ["queue", "queue", "waiting in the server"],
  ["preprocess", "preprocess", "pictures and words made ready"],
  ["mllm", "MLLM", "the multimodal model's lower blocks"],
  ["denoise", "denoise", "the policy"],
  ["network", "network and rest", "on the way there and back"],
];
const SHOWN = 30;
const MARGIN = { left: 52, right: 4, top: 8, bottom: 18 };

/** A look's time by part, ms; what the server does not account for is `network`. */
function split(look) {
  const parts = {};
  let told = 0;
  for (const [part] of PARTS.slice(0, -1)) {
    parts[part] = Math.max(look.timing[`${part}_ms`] || 0, 0);
    told += parts[part];
  }
  parts.network = Math.max(look.round_trip_ms - told, 0);
  return parts;
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The least of 1, 2, 3, 4, 6, 8, 10, 20, ... that is not smaller: their halves are good to read too. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

function drawChart() {
  const chart = find("chart");
  const width = chart.clientWidth || 600;
  const height = chart.clientHeight || 120;
  const looks = known.looks.slice(-SHOWN);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const most = round(Math.max(...looks.map((look) => look.round_trip_ms), 10));
  const y = (value) => MARGIN.top + inner.height * (1 - value / most);
  const drawn = [];
  for (const value of [0, most / 2, most]) {
    drawn.push(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
    drawn.push(svg("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, value ? `${value}${value === most ? " ms" : ""}` : "0"));
  }
  const pitch = inner.width / SHOWN;
  looks.forEach((look, place) => {
    const x = MARGIN.left + place * pitch + pitch * 0.15;
    const parts = split(look);
    const bar = svg("g", {});
    bar.append(svg("title", {}, `Look ${look.number}, step ${look.step}: ${PARTS.map(([part, name]) => `${name} ${milliseconds(parts[part])}`).join(", ")}`));
    let below = 0;
    for (const [part] of PARTS) {
      const top = y(below + parts[part]);
      bar.append(svg("rect", { x, width: pitch * 0.7, y: top, height: Math.max(y(below) - top, 0), style: `fill: var(--${part})` }));
      below += parts[part];
    }
    drawn.push(bar);
    if (look.number % 5 === 0 || look.number === 1 || place === looks.length - 1) {
      drawn.push(svg("text", { x: x + pitch * 0.35, y: height - 4, "text-anchor": "middle" }, look.number));
    }
  });
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.replaceChildren(...drawn);
  drawLegend(looks.at(-1));
}

function drawLegend(last) {
  const parts = last && split(last);
  find("legend").replaceChildren(...PARTS.map(([part, name, meaning]) => {
    const entry = make("li", { title: meaning }, make("i", { style: `background: var(--${part})` }), `${name} `);
    if (parts) entry.append(make("b", {}, milliseconds(parts[part])));
    return entry;
  }));
  const batch = last && last.timing.batch > 1 ? `, with ${last.timing.batch - 1} other${last.timing.batch > 2 ? "s" : ""}` : "";
  find("chart-last").textContent = last ? `look ${last.number}: ${milliseconds(last.round_trip_ms)}${batch}` : "no look yet";
  find("chart").setAttribute("aria-label", last
    ? `Look ${last.number} took ${PARTS.map(([part, name]) => `${name} ${milliseconds(parts[part])}`).join(", ")}`
    : "No look yet");
}

window.addEventListener("resize", drawChart);
