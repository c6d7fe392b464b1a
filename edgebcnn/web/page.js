// Shows what /api/stream reports; docs/web.schema.json describes it. Text from the run only ever becomes textContent.
"use strict";

const SILENT_S = 2; // a state comes twice a second: without one, nothing is current
const CHECK_MS = 250; // how often the age of what is shown is checked
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

const capital = (text) => text[0].toUpperCase() + text.slice(1);

// The time of today, with its date where it was another day.
function moment(time) {
  const at = new Date(time);
  const ofDay = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  return at.toDateString() === new Date().toDateString() ? ofDay : `${at.toLocaleDateString()} ${ofDay}`;
}

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
  byId("caption").textContent = `Frame ${frame.frame}, ${clock(frame.time)}, ${why}${size}`;
  byId("top3").replaceChildren(
    ...frame.top3.map((product) => {
      const line = element("li");
      const bar = element("meter");
      bar.value = product.score;
      bar.setAttribute("aria-label", product.label);
      line.append(element("span", product.label), element("b", percent(product.score, 0)), bar);
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
      const group = drawing("g", { class: slot.contradicted ? "unsettled" : (slot.state ?? "unsettled") });
      const left = Math.min(...corners.map(([x]) => x));
      const top = Math.min(...corners.map(([, y]) => y));
      const name = `${slot.contradicted ? "…" : (SIGNS[slot.state] ?? "…")} ${slot.slot}`;
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

function slotCard(slot) {
  const card = element("li", undefined, `slot ${slot.state ?? "unsettled"}`);
  card.classList.toggle("contradicted", slot.contradicted);
  const head = element("p", undefined, "head");
  const sign = slot.contradicted ? `… was ${slot.state}` : slot.state ? `${SIGNS[slot.state]} ${slot.state}` : "… looking";
  head.append(element("span", slot.slot), element("span", sign, "state"));
  const score = slot.score === null || slot.state === "unknown" ? "" : ` · ${percent(slot.score, 0)}`;
  card.append(head, element("p", slot.product ?? (slot.state === "right" ? slot.expected : ""), "is"));
  if (slot.guess) card.append(element("p", `best guess ${slot.guess.label} ${percent(slot.guess.score, 0)}`, "is"));
  if (slot.state !== "right") card.append(element("p", `belongs here: ${slot.expected}`, "belongs"));
  const since = slot.since ? `since ${moment(slot.since)}` : "";
  card.append(element("p", slot.contradicted ? "changing now" : since + score, "more"));
  return card;
}

const isFine = (slot) => slot.state === "right" && !slot.contradicted;

function showSlots(state) {
  byId("shelves").hidden = !state.slots.length;
  document.body.classList.toggle("frames", !state.slots.length);
  const cards = state.shelves.map((shelf) => {
    const slots = state.slots.filter((slot) => slot.shelf === shelf.shelf);
    const card = element("section", undefined, "card");
    const title = element("h2", shelf.shelf);
    title.append(element("span", `${slots.filter((slot) => slot.state === "right").length} of ${slots.length} right`));
    const list = element("ul", undefined, "slots");
    list.append(...slots.map(slotCard));
    card.append(title, list);
    return { card, problems: slots.filter((slot) => !isFine(slot)).length };
  });
  cards.sort((one, other) => Math.sign(other.problems) - Math.sign(one.problems));
  byId("shelves").replaceChildren(...cards.map(({ card }) => card));
}

function showTiles(state) {
  const speed = state.speed;
  const tiles = [
    ["Frames per second", speed.fps.toFixed(1), "over ten seconds"],
    ["Inference time, p50", ms(speed.latency_p50_ms), `p95 ${ms(speed.latency_p95_ms)}`],
    ["Capture to result, p50", ms(speed.age_p50_ms), `p95 ${ms(speed.age_p95_ms)}`],
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
    plot("Frames per second", speed.fps_by_second, ""),
    plot("Longest inference", speed.latency_ms_by_second, " ms"),
    plot("Longest capture to result", speed.age_ms_by_second, " ms"),
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

function showEvents(events, hasSlots) {
  const shown = events.filter((event) => !hasSlots || event.kind !== "slot"); // changes of slots have images
  byId("events").hidden = !shown.length;
  rows(
    "events",
    shown.map((event) => {
      const line = row([["Time", clock(event.time)], ["Event", told(event), event.state ?? ""]]);
      line.dataset.id = event.id;
      return line;
    }),
  );
}

const place = (slot) => `${slot.shelf} ${slot.slot}`;

function picture(id, alt) {
  const made = element("img");
  made.alt = alt;
  made.loading = "lazy";
  if (id) made.src = `history/${id}.jpg`;
  return made;
}

function changeLine(change) {
  const line = element("li");
  line.dataset.id = change.id;
  const pair = element("p", undefined, "pair");
  if (change.before) pair.append(picture(change.before, "before"), "→");
  if (change.after) pair.append(picture(change.after, "after"));
  const text = element("div");
  const found = change.state === "wrong" ? `${change.product} where ${change.expected} belongs` : change.expected;
  const was = change.previous ? ` · was ${change.previous}` : "";
  const state = element("p");
  state.append(element("b", `${SIGNS[change.state] ?? "?"} ${place(change)} ${change.state}`, change.state));
  text.append(state, element("p", found + was, "soft"));
  const time = element("time", `${moment(change.time)}`);
  time.dateTime = change.time;
  line.append(pair, text, time);
  return line;
}

let newestChange = null;

async function showHistory() {
  const [shelf, slot] = JSON.parse(byId("of-slot").value || '["", ""]');
  const asked = new URLSearchParams({ shelf, slot, state: byId("of-state").value });
  try {
    const answer = await fetch(`api/history?${asked}`);
    const { changes } = await answer.json();
    byId("changes").replaceChildren(...changes.map(changeLine));
    byId("unchanged").hidden = changes.length > 0;
  } catch {
    newestChange = null; // the next state retries
  }
}

function noteHistory(state) {
  byId("history").hidden = !state.slots.length;
  if (!state.slots.length) return;
  const slots = byId("of-slot");
  if (slots.options.length !== state.slots.length + 1) {
    slots.append(
      ...state.slots.map((slot) => {
        const option = element("option", place(slot));
        option.value = JSON.stringify([slot.shelf, slot.slot]);
        return option;
      }),
    );
  }
  if (state.newest_change === newestChange) return;
  newestChange = state.newest_change;
  showHistory();
}

function showHealth(health) {
  definitions("health", [
    ["Source", health.source],
    ["Reconnects", health.restarts ? `${health.restarts}, ${duration(health.outage_s)} without the source` : "none"],
    ["Frames", `${health.seen} seen, ${health.classified} classified, ${health.dropped} dropped, ${health.unreadable} unreadable`],
    ["Skipped", counted(health.refused)],
  ]);
  rows(
    "sinks",
    health.sinks.map((sink) =>
      row(["sink", "delivered", "dropped", "refused", "waiting"].map((name) => [capital(name), String(sink[name])])),
    ),
  );
}

function showReceipt(state) {
  const receipt = state.receipt;
  const pairs = [
    ["Runtime", `${receipt.runtime} ${receipt.version}`],
    ["Delegate", receipt.delegate ?? "none"],
    ["Ops", `${receipt.ops_taken} of ${receipt.ops_taken + receipt.ops_left} run by the delegate; others: ${counted(receipt.left)}`],
    ["Model file", receipt.precision],
    ["Bundle", state.bundle],
    ["Run", state.run],
  ];
  if (receipt.adapter) pairs.splice(2, 0, ["Adapter", receipt.adapter]);
  if (receipt.threads) pairs.splice(2, 0, ["Threads", String(receipt.threads)]);
  if (receipt.fallback) pairs.unshift(["CPU fallback", receipt.fallback]);
  definitions("receipt", pairs);
}

// ---- the verdict, and whether it is current

let last = null; // the newest state, and when it came by this machine's clock
let receivedMs = 0;
let ended = null; // why no more states come

function goneFor() {
  return (performance.now() - receivedMs) / 1000;
}

// Why the page is stale; null while it is current. The server decides, unless it is silent itself.
function staleReason() {
  if (ended) return ended;
  if (!last) return "Connecting to the run";
  if (goneFor() > SILENT_S) return "No connection to the run";
  return last.live.reason;
}

// A count and what it counts stay on one line.
const together = (text) => text.replace(/ · (\d+) (\w+)/g, " · $1\u00a0$2");

function showVerdict() {
  const reason = staleReason();
  document.body.classList.toggle("stale-page", reason !== null);
  byId("status").textContent = reason === null ? "Live" : ended ? "Ended" : last ? "Not live" : "Connecting";
  byId("status").className = reason === null ? "good" : "bad";
  byId("gone").hidden = reason === null || !last;
  const verdict = last?.verdict;
  const sign = { right: "✓ ", product: "", problem: "✗ ", unsure: "? " };
  const level = reason === null ? verdict.level : "stale";
  byId("verdict").className = level;
  const headline = reason ?? sign[level] + together(verdict.headline);
  if (byId("headline").textContent !== headline) byId("headline").textContent = headline; // it is read aloud
  if (last) document.title = `${headline} · ${last.device}`;
  byId("detail").textContent = detail(reason);
  if (reason !== null && last) byId("gone").textContent = lastSeen();
}

// Of a verdict that the server gave as stale, and of one that went stale here.
const lastKnown = () => last.verdict.last_known ?? (last.verdict.level === "stale" ? null : last.verdict.headline);

function lastSeen() {
  const at = last.live.since ?? last.frame?.time;
  return at ? `Picture of ${clock(at)}` : "No picture yet";
}

function detail(reason) {
  if (!last) return "";
  const { verdict, live } = last;
  if (reason === null) {
    const since = verdict.since ? `Since ${moment(verdict.since)}` : "";
    return verdict.level === "right" ? since : "";
  }
  const at = live.since ?? last.frame?.time;
  const known = lastKnown();
  const agoS = (Date.parse(last.time) - Date.parse(at)) / 1000 + goneFor(); // this machine's clock may be another
  return at ? `Last seen at ${clock(at)}, ${duration(Math.max(0, agoS))} ago${known ? `: ${known}` : ""}` : "";
}

function showProblems(problems) {
  byId("problems").hidden = !problems.length;
  byId("problems").replaceChildren(
    ...problems.map((problem) => {
      const line = element("li");
      line.append(element("b", problem.slot), element("span", problem.text));
      if (problem.since) {
        const since = element("time", `since ${moment(problem.since)}`);
        since.dateTime = problem.since;
        line.append(since);
      }
      return line;
    }),
  );
}

function show(state) {
  byId("device").textContent = state.device;
  byId("source").textContent = state.live.status === "lost" ? state.health.source : state.source;
  showVerdict();
  showProblems(state.verdict.problems);
  showFrame(state.frame);
  showOverlay(state);
  showTiles(state);
  showSlots(state);
  showPlots(state.speed);
  showEvents(state.events, state.slots.length > 0);
  noteHistory(state);
  showHealth(state.health);
  showReceipt(state);
}

let stream = null;

function look() {
  stream = new EventSource("api/stream");
  stream.onopen = () => {
    ended = null;
    byId("picture").src = `picture.mjpg?${Date.now()}`; // a broken image stream does not reconnect by itself
  };
  stream.onmessage = (message) => {
    last = JSON.parse(message.data);
    receivedMs = performance.now();
    show(last);
  };
  stream.addEventListener("end", () => {
    ended = "The run has ended";
    showVerdict();
  });
  // What is shown stays: the age of it says soon enough that nothing is current.
  stream.onerror = () => last || showVerdict();
}

function rest() {
  stream?.close();
  stream = null;
  byId("picture").removeAttribute("src");
}

byId("of-slot").onchange = byId("of-state").onchange = showHistory;
setInterval(showVerdict, CHECK_MS);
// Stops the stream while the page is in the background, to save work on the device.
document.addEventListener("visibilitychange", () => (document.hidden ? rest() : stream || look()));
addEventListener("load", () => document.hidden || look());
