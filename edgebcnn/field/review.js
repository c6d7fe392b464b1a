// The page of `edgebcnn review`: shows frame after frame, and sends each decision before it goes on.
"use strict";

const SHOWN_MATCHES = 8;
const at = (id) => document.getElementById(id);
let labels = [];
let frames = [];
let place = 0;
let chosen = 0;
let busy = false;

const percent = (score) => `${Math.round(100 * score)} %`;
const pictureOf = (frame) => `frames/${frame.id}`;
const isPicking = () => !at("picker").hidden;

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The review has ended; what was decided is saved. Start edgebcnn review again to go on.");
  }
  if (!answer.ok) throw new Error(`Not saved: ${await answer.text()}`);
  return answer;
}

function complain(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

function show() {
  const decided = frames.filter((frame) => frame.decided);
  const labelled = decided.filter((frame) => frame.label !== null).length;
  at("progress").textContent = `${decided.length} of ${frames.length} decided, ${labelled} of them labelled`;
  at("bar").ariaValueNow = String(Math.round((100 * decided.length) / frames.length));
  at("done").style.width = `${(100 * decided.length) / frames.length}%`;
  const frame = frames[place];
  at("frame").hidden = !frame;
  at("end").hidden = Boolean(frame);
  closePicker();
  if (!frame) return;
  at("picture").src = pictureOf(frame);
  for (const model of ["full", "edge"]) {
    at(model).textContent = frame[model];
    at(`${model}-score`).textContent = percent(frame[`${model}_score`]);
  }
  at("said").hidden = !frame.decided;
  at("said").textContent = `Decided: ${frame.no_product ? "no product" : (frame.label ?? "skipped")}`;
  at("keep").textContent = frame.full;
  at("back").disabled = place === 0;
  if (frames[place + 1]) new Image().src = pictureOf(frames[place + 1]);
}

async function decide(label, noProduct = false) {
  const frame = frames[place];
  if (busy || !frame) return;
  busy = true;
  try {
    await ask("decisions", { id: frame.id, label, no_product: noProduct });
    Object.assign(frame, { decided: true, label, no_product: noProduct });
    complain(null);
    place += 1;
    while (frames[place]?.decided) place += 1;
    show();
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
  }
}

function back() {
  place = Math.max(0, Math.min(place, frames.length) - 1);
  show();
}

function matches() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = labels.filter((label) => words.every((word) => label.toLowerCase().includes(word)));
  const rank = (label) => (label === frames[place].edge ? 0 : label.toLowerCase().startsWith(words[0] ?? "") ? 1 : 2);
  return fits.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b)).slice(0, SHOWN_MATCHES);
}

function showMatches() {
  const found = matches();
  chosen = Math.max(0, Math.min(chosen, found.length - 1));
  at("matches").replaceChildren(
    ...found.map((label, number) => {
      const item = document.createElement("li");
      item.textContent = label;
      item.id = `match-${number}`;
      item.role = "option";
      item.ariaSelected = String(number === chosen);
      item.onclick = () => decide(label);
      return item;
    }),
  );
}

function openPicker(text) {
  at("picker").hidden = false;
  at("filter").ariaExpanded = "true";
  at("filter").value = text;
  chosen = 0;
  at("filter").focus();
  showMatches();
}

function closePicker() {
  at("picker").hidden = true;
  at("filter").ariaExpanded = "false";
  at("filter").blur();
}

function onPickerKey(event) {
  const found = matches();
  if (event.key === "ArrowDown") chosen += 1;
  else if (event.key === "ArrowUp") chosen -= 1;
  else if (event.key === "Enter" && found[chosen]) decide(found[chosen]);
  else if (event.key === "Escape") closePicker();
  else return;
  event.preventDefault();
  if (isPicking()) showMatches();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isPicking()) return onPickerKey(event);
  if (event.repeat) return; // a key that is held decides one frame
  const frame = frames[place];
  if (event.key === "ArrowLeft") back();
  else if (!frame) return;
  else if (event.key === "ArrowRight") decide(frame.full);
  else if (event.key === "ArrowDown") decide(null);
  else if (event.key === "ArrowUp") openPicker("");
  else if (event.key === "Delete" || event.key === "Backspace") decide(null, true);
  else if (event.key.length === 1 && event.key.trim()) openPicker(event.key);
  else return;
  event.preventDefault();
}

async function finish() {
  try {
    await ask("finish", {});
    at("page").replaceChildren("Saved. You can close this page.");
  } catch (error) {
    complain(error);
  }
}

at("keep").onclick = () => decide(frames[place].full);
at("nothing").onclick = () => decide(null, true);
at("skip").onclick = () => decide(null);
at("other").onclick = () => openPicker("");
at("back").onclick = at("again").onclick = back;
at("finish").onclick = finish;
at("filter").oninput = () => {
  chosen = 0;
  showMatches();
};
document.addEventListener("keydown", onKey);

ask("frames")
  .then((answer) => answer.json())
  .then((review) => {
    ({ labels, frames } = review);
    at("output").textContent = review.output;
    at("no-product").textContent = review.no_product;
    const undecided = frames.findIndex((frame) => !frame.decided);
    place = undecided < 0 ? frames.length : undecided;
    show();
  })
  .catch(complain);
