// Shows what /api/stream says; docs/web.schema.json describes it. Text from the run only ever becomes textContent.
"use strict";

const SILENT_MS = 5000; // a state comes each second
const SIGNS = { right: "✓", wrong: "✗", empty: "○", unknown: "?", occluded: "▒" };
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawing(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (share, digits = 1) => (100 * share).toFixed(digits) + "\u00a0%";
const ms = (value) => (value === null ? "-" : value.toFixed(value < 10 ? 1 : 0) + "\u00a0ms");
const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });
const counted = (counts) => Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ") || "none";

function duration(seconds) {
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

function definitions(id, pairs) {
  byId(id).replaceChildren(...pairs.flatMap(([term, told]) => [element("dt", term), element("dd", told)]));
}

function rows(id, lines) {
  byId(id).tBodies[0].replaceChildren(...lines);
}

function row(cells) {
  const made = element("tr");
  for (const [label, text, className] of cells) {
    const cell = element("td", text, className);
    cell.dataset.label = label;
    made.append(cell);
  }
  return made;
}

function showFrame(frame) {
  if (!frame) return;
  const size = `${frame.width_px} × ${frame.height_px}`;
  const why = frame.reason ? `skipped: ${frame.reason}, ` : "";
  byId("caption").textContent = `frame ${frame.frame}, ${clock(frame.time)}: ${why}age ${ms(frame.age_ms)}, ${size}`;
  byId("top3").replaceChildren(
    ...frame.top3.map((product) => {
      const line = element("li");
      const bar = element("meter");
      bar.value = product.score;
      line.append(element("span", product.label), element("b", percent(product.score)), bar);
      return line;
    }),
  );
}

function showOverlay(state) {
  const overlay = byId("overlay");
  const shown = overlay.clientWidth;
  if (!state.frame || !shown) return;
  const { width_px: width, height_px: height } = state.frame;
  const letter = (12 * width) / shown;
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.replaceChildren(
    ...state.slots.map((slot) => {
      const corners = slot.corners.map(([x, y]) => [x * width, y * height]);
      const group = drawing("g", { class: slot.state ?? "unsettled" });
      const left = Math.min(...corners.map(([x]) => x));
      const top = Math.min(...corners.map(([, y]) => y));
      const name = `${SIGNS[slot.state] ?? "…"} ${slot.slot}`;
      const points = corners.map((corner) => corner.join(",")).join(" ");
      group.append(
        drawing("polygon", { points, class: "rim" }),
        drawing("polygon", { points }),
        drawing("text", { x: left + letter / 4, y: top + letter, "font-size": letter, "stroke-width": letter / 4 }, name),
      );
      return group;
    }),
  );
}

function showSlots(state) {
  byId("shelf").hidden = !state.slots.length;
  byId("shelves").replaceChildren(
    ...state.shelves.map((shelf) => {
      const share = shelf.compliance === null ? "nothing seen yet" : percent(shelf.compliance);
      return element("li", `${shelf.shelf}: ${shelf.right} of ${shelf.judged} right (${share})`);
    }),
  );
  rows(
    "slots",
    state.slots.map((slot) => {
      const told = slot.state ? `${SIGNS[slot.state]} ${slot.state}` : "… not settled";
      const score = slot.score === null ? "" : ` ${percent(slot.score)}`;
      const likely = slot.top3.filter((product) => product.score >= 0.005); // the rest would read 0 %
      const votes = likely.map((product) => `${product.label} ${percent(product.score, 0)}`).join(", ");
      return row([
        ["Slot", `${slot.shelf} ${slot.slot}`],
        ["State", told + score, `state ${slot.state ?? "unsettled"}`],
        ["Belongs there", slot.expected],
        ["Is there", slot.product ?? "-"],
        ["Votes now", votes || "-"],
      ]);
    }),
  );
}

function showTiles(state) {
  const speed = state.speed;
  const tiles = [
    ["Frames a second", speed.fps.toFixed(1), "over ten seconds"],
    ["Latency, p50", ms(speed.latency_p50_ms), `p95 ${ms(speed.latency_p95_ms)}`],
    ["Age, p50", ms(speed.age_p50_ms), `p95 ${ms(speed.age_p95_ms)}`],
    ["Running for", duration(state.running_s), `since ${clock(Date.parse(state.time) - 1000 * state.running_s)}`],
  ];
  const share = (name, found) =>
    tiles.push([name, percent(found.value), `${percent(found.low)} to ${percent(found.high)}, n=${found.n}`]);
  if (state.accuracy) share("Accuracy", state.accuracy);
  for (const [name, found] of Object.entries(state.agreement)) share(`Agreement: ${name}`, found);
  byId("tiles").replaceChildren(
    ...tiles.map(([term, value, more]) => {
      const tile = element("div");
      const told = element("dd", value);
      told.append(element("small", more));
      tile.append(element("dt", term), told);
      return tile;
    }),
  );
}

function plot(title, values, unit) {
  const width = 120;
  const height = 50;
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known, 1e-9);
  let path = "";
  let pen = "M";
  values.forEach((value, second) => {
    if (value === null) {
      pen = "M";
      return;
    }
    const x = width - values.length + second + 0.5;
    path += `${pen}${x.toFixed(1)},${(height - 3 - (value / most) * (height - 6)).toFixed(1)}`;
    pen = "L";
  });
  const figure = element("div");
  const caption = element("p");
  const last = known.length ? known[known.length - 1] : 0;
  const told = (value) => `${value.toFixed(value < 10 ? 1 : 0)}${unit}`;
  caption.append(element("span", title), element("span", known.length ? `${told(last)}, highest ${told(most)}` : "-", "soft"));
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
  svg.append(drawing("title", {}, title), drawing("path", { d: path, "vector-effect": "non-scaling-stroke", "stroke-width": 1.5 }));
  figure.append(caption, svg);
  return figure;
}

function showPlots(speed) {
  byId("drawn").replaceChildren(
    plot("Frames a second", speed.fps_by_second, ""),
    plot("Longest latency", speed.latency_ms_by_second, " ms"),
    plot("Greatest age", speed.age_ms_by_second, " ms"),
  );
}

function told(event) {
  if (event.kind === "reading") {
    return event.label === null ? `skipped: ${event.reason}` : `${event.label} ${percent(event.score)}`;
  }
  if (event.kind === "golden") return event.problem ?? `golden photos match the export, accuracy ${percent(event.accuracy)}`;
  if (event.kind === "agreement") return event.problem ?? `full model agrees on ${percent(event.agreement)} of ${event.n}`;
  if (event.kind === "alarm") return `ALARM: ${event.problem}`;
  if (event.kind !== "slot") return event.kind;
  const found = event.state === "wrong" ? `, ${event.product} in place of ${event.expected}` : "";
  const why = event.reason ? `, ${event.reason}` : "";
  const before = event.previous ? `, was ${event.previous}` : "";
  return `${event.shelf} ${event.slot}: ${event.state}${found}${why}${before}`;
}

function showEvents(events) {
  rows(
    "events",
    events.map((event) => {
      const line = row([["Time", clock(event.time)], ["Event", told(event), event.state ?? ""]]);
      line.dataset.id = event.id;
      return line;
    }),
  );
}

function showHealth(health) {
  definitions("health", [
    ["Source", health.source],
    ["Lost and back", health.restarts ? `${health.restarts} times, ${duration(health.outage_s)} in all` : "never"],
    ["Frames", `${health.seen} seen, ${health.classified} classified, ${health.dropped} dropped, ${health.unreadable} unreadable`],
    ["Without a product", counted(health.refused)],
  ]);
  rows(
    "sinks",
    health.sinks.map((sink) =>
      row(["sink", "delivered", "dropped", "refused", "waiting"].map((name) => [name, String(sink[name])])),
    ),
  );
}

function showReceipt(state) {
  const receipt = state.receipt;
  const pairs = [
    ["Runtime", `${receipt.runtime} ${receipt.version}`],
    ["Delegate", receipt.delegate ?? "none"],
    ["Ops", `${receipt.ops_taken} of ${receipt.ops_taken + receipt.ops_left} taken by it; left: ${counted(receipt.left)}`],
    ["Model file", receipt.precision],
    ["Bundle", state.bundle],
    ["Run", state.run],
  ];
  if (receipt.adapter) pairs.splice(2, 0, ["Adapter", receipt.adapter]);
  if (receipt.threads) pairs.splice(2, 0, ["Threads", String(receipt.threads)]);
  if (receipt.fallback) pairs.unshift(["CPU fallback", receipt.fallback]);
  definitions("receipt", pairs);
}

function showStatus(sentence, quality) {
  byId("status").textContent = sentence;
  byId("status").className = quality;
}

function show(state) {
  document.title = `${state.device}: edgebcnn`;
  byId("device").textContent = state.device;
  byId("source").textContent = state.source;
  const isFine = state.health.source.endsWith("gives frames");
  showStatus(isFine ? "live" : state.health.source, isFine ? "good" : "bad");
  showFrame(state.frame);
  showOverlay(state);
  showTiles(state);
  showSlots(state);
  showPlots(state.speed);
  showEvents(state.events);
  showHealth(state.health);
  showReceipt(state);
}

let stream = null;
let silence = 0;

function hush(sentence) {
  clearTimeout(silence);
  showStatus(sentence, "bad");
}

function look() {
  stream = new EventSource("api/stream");
  stream.onopen = () => {
    byId("picture").src = `picture.mjpg?${Date.now()}`; // a picture whose connection broke does not come back by itself
  };
  stream.onmessage = (message) => {
    clearTimeout(silence);
    silence = setTimeout(hush, SILENT_MS, "nothing heard from the run");
    show(JSON.parse(message.data));
  };
  stream.addEventListener("end", () => hush("the run has ended"));
  stream.onerror = () => hush(byId("status").textContent === "the run has ended" ? "the run has ended" : "not connected");
}

function rest() {
  clearTimeout(silence);
  stream?.close();
  stream = null;
  byId("picture").removeAttribute("src");
}

// Nobody looks at a page in the background: the device need not work for it.
document.addEventListener("visibilitychange", () => (document.hidden ? rest() : stream || look()));
addEventListener("load", () => document.hidden || look());
