// The page of `edgebcnn slots`. Shapes are in pixels of the camera's image, whatever its size on the screen.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const SHOWN_PRODUCTS = 8;
const SMALLEST_PX = 4; // on the screen: a shorter drag is a slip of the finger
const REACH_PX = matchMedia("(pointer: coarse)").matches ? 24 : 10; // on the screen, around a corner
const GTIN = /^\d{8,14}$/;
const byId = (id) => document.getElementById(id);
const field = (name) => byId("form").elements[name];

let page = null; // the response of /api/slots: file, size, products
let slots = []; // {shelf, name, product, box | polygon}; product is a name or a GTIN
let chosen = -1;
let past = [];
let future = [];
let saved = "[]";
let version = null;
let seen = new Map(); // by shape: the model's predictions
let tool = "box";
let corners = []; // of the polygon that is being drawn
let drag = null;
let marked = -1; // of the products in the list
let leaving = false;

// ---- shapes

const cornersOf = ({ box, polygon }) =>
  box ? [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]] : polygon;
const shapeKey = (slot) => JSON.stringify(cornersOf(slot));
const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
const inside = ([x, y]) => [clamp(Math.round(x), 0, page.width_px), clamp(Math.round(y), 0, page.height_px)];
const scale = () => page.width_px / (byId("overlay").clientWidth || 1); // image pixels per screen pixel

function reshaped(slot, change) {
  const made = change(cornersOf(slot));
  if (!slot.box) return { ...slot, polygon: made };
  const [[left, top], , [right, bottom]] = made;
  return { ...slot, box: [Math.min(left, right), Math.min(top, bottom), Math.max(left, right), Math.max(top, bottom)] };
}

function boundsOf(slot) {
  const [xs, ys] = [0, 1].map((axis) => cornersOf(slot).map((corner) => corner[axis]));
  return { left: Math.min(...xs), top: Math.min(...ys), right: Math.max(...xs), bottom: Math.max(...ys) };
}

function moved(slot, across, down) {
  const { left, top, right, bottom } = boundsOf(slot);
  const dx = clamp(across, -left, page.width_px - right);
  const dy = clamp(down, -top, page.height_px - bottom);
  return reshaped(slot, (points) => points.map(([x, y]) => [x + dx, y + dy]));
}

// A corner of a box takes the two edges along that meet in it.
function pulled(slot, corner, to, opposite = cornersOf(slot)[(corner + 2) % 4]) {
  if (slot.box) return reshaped(slot, () => [to, [], opposite, []]);
  return reshaped(slot, (points) => points.map((point, each) => (each === corner ? to : point)));
}

// Its right and lower edge by so much; of a polygon, all corners in proportion.
function resized(slot, across, down) {
  const { left, top, right, bottom } = boundsOf(slot);
  const [wide, high] = [right - left, bottom - top];
  const wider = clamp(wide + across, 1, page.width_px - left) / wide;
  const higher = clamp(high + down, 1, page.height_px - top) / high;
  const stretched = ([x, y]) => [left + (x - left) * wider, top + (y - top) * higher];
  return reshaped(slot, (points) => points.map(stretched));
}

function holds(slot, [x, y]) {
  const points = cornersOf(slot);
  let odd = false;
  points.forEach(([ax, ay], each) => {
    const [bx, by] = points[(each + 1) % points.length];
    if (ay > y !== by > y && x < ax + ((y - ay) * (bx - ax)) / (by - ay)) odd = !odd;
  });
  return odd;
}

// ---- edits and undo

function change(next, selected = chosen) {
  past.push(JSON.stringify(slots));
  future = [];
  slots = next;
  chosen = selected;
  tell("");
  show();
}

function travel(from, to) {
  if (!from.length) return;
  to.push(JSON.stringify(slots));
  slots = JSON.parse(from.pop());
  chosen = Math.min(chosen, slots.length - 1);
  tell("");
  show();
}

const replaced = (slot) => slots.map((each, place) => (place === chosen ? slot : each));
const isChanged = () => JSON.stringify(slots) !== saved;

function nextName(shelf) {
  const names = slots.filter((slot) => slot.shelf === shelf).map((slot) => slot.name);
  let name = names.at(-1) ?? "0";
  do name = /\d+$/.test(name) ? name.replace(/\d+$/, (number) => Number(number) + 1) : `${name} 2`;
  while (names.includes(name));
  return name;
}

function add(shape) {
  const shelf = (slots[chosen] ?? slots.at(-1))?.shelf ?? "Shelf 1";
  change([...slots, { shelf, name: nextName(shelf), product: "", ...shape }], slots.length);
}

function addBeside() {
  const slot = slots[chosen];
  const [width, height] = [page.width_px / 8, page.height_px / 4];
  if (!slot) return add({ box: [...inside([3.5 * width, 1.5 * height]), ...inside([4.5 * width, 2.5 * height])] });
  const { left, right } = boundsOf(slot);
  const { box, polygon } = moved(slot, right - left, 0);
  add(box ? { box } : { polygon });
}

function remove() {
  if (corners.length) corners.pop();
  else if (slots[chosen]) return change(slots.filter((_, place) => place !== chosen), Math.min(chosen, slots.length - 2));
  show();
}

function choose(place) {
  chosen = place;
  tell("");
  show();
}

function take(name) {
  tool = name;
  corners = [];
  show();
}

function close() {
  if (corners.length < 3) return;
  const polygon = corners;
  corners = [];
  add({ polygon });
}

// ---- rendering

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function drawing(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function tell(sentence, quality = "bad") {
  byId("told").textContent = sentence;
  byId("told").className = quality;
  byId("told").hidden = !sentence;
  for (const input of byId("form").querySelectorAll("input")) input.removeAttribute("aria-invalid");
}

function drawn(slot, place) {
  const points = cornersOf(slot).map((corner) => corner.join(",")).join(" ");
  const group = drawing("g", { class: `${place === chosen ? "chosen" : ""} ${slot.product ? "" : "bare"}` });
  const letter = 13 * scale();
  const { left, top } = boundsOf(slot);
  const text = { x: left + letter / 4, y: top + letter, "font-size": letter, "stroke-width": letter / 4 };
  group.append(drawing("polygon", { points, class: "rim" }), drawing("polygon", { points }), drawing("text", text, slot.name));
  if (place === chosen) group.append(...cornersOf(slot).map(handle));
  return group;
}

const handle = ([cx, cy]) => drawing("circle", { cx, cy, r: (REACH_PX / 2) * scale() });

function showOverlay() {
  const begun = corners.length ? [drawing("polygon", { points: corners.map((each) => each.join(",")).join(" ") }), ...corners.map(handle)] : [];
  byId("overlay").setAttribute("viewBox", `0 0 ${page.width_px} ${page.height_px}`);
  byId("overlay").replaceChildren(...slots.map(drawn), ...begun);
}

const percent = (score) => `${Math.round(100 * score)}\u00a0%`;
const seenIn = (slot) => seen.get(shapeKey(slot));

function productOf(slot) {
  const gtin = GTIN.test(slot.product) && page.labels.find((label) => label.gtin && Number(label.gtin) === Number(slot.product));
  return gtin ? `${slot.product} ${gtin.name}` : slot.product || "no product yet";
}

function showSlots() {
  const list = byId("slots");
  while (list.children.length > slots.length) list.lastChild.remove();
  while (list.children.length < slots.length) list.append(slotButton(list.children.length));
  slots.forEach((slot, place) => {
    const button = list.children[place].firstChild;
    const [best] = seenIn(slot) ?? [];
    button.ariaPressed = String(place === chosen);
    button.firstChild.textContent = `${slot.shelf} · ${slot.name}`;
    button.lastChild.textContent = productOf(slot) + (best ? `; the model sees ${best.product} ${percent(best.score)}` : "");
  });
}

// Made once: one that is replaced while it is pressed would lose the click, and the focus.
function slotButton(place) {
  const button = element("button", "");
  button.append(element("span", ""), element("small", ""));
  button.onclick = () => choose(place);
  const item = element("li", "");
  item.append(button);
  return item;
}

function showForm() {
  const slot = slots[chosen];
  byId("form").hidden = !slot;
  closeProducts();
  if (!slot) return;
  for (const name of ["shelf", "name", "product"]) field(name).value = slot[name];
  byId("shape").textContent = slot.box ? "Left, top, right, bottom" : "Corners";
  field("corners").value = slot.box ? slot.box.join(", ") : slot.polygon.map((corner) => corner.join(", ")).join("; ");
  byId("shelves").replaceChildren(...[...new Set(slots.map(({ shelf }) => shelf))].map((value) => element("option", "", { value })));
  const found = seenIn(slot);
  byId("seen").hidden = found === undefined;
  const choices = (found ?? []).map(({ product, score }) => {
    const button = element("button", `${product} ${percent(score)}`, { type: "button" });
    button.onclick = () => change(replaced({ ...slots[chosen], product }));
    return button;
  });
  byId("seen").replaceChildren(found === null ? "too small to be seen" : "The model sees", ...choices);
}

function show() {
  showOverlay();
  showSlots();
  showForm();
  for (const name of ["box", "polygon"]) byId(name).ariaPressed = String(tool === name);
  byId("undo").disabled = !past.length;
  byId("redo").disabled = !future.length;
  byId("remove").disabled = !corners.length && !slots[chosen];
  byId("see").disabled = byId("save").disabled = !slots.length;
  byId("save").textContent = isChanged() ? "Save *" : "Save";
  byId("caption").textContent = `${page.width_px} × ${page.height_px}, ${slots.length} slots`;
  leaving = false;
}

// ---- the pointer: mouse, pen or finger

function at(event) {
  const { left, top } = byId("overlay").getBoundingClientRect();
  return [(event.clientX - left) * scale(), (event.clientY - top) * scale()];
}

const near = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by) <= REACH_PX * scale();

function onDown(event) {
  if (!event.isPrimary || event.button) return;
  document.activeElement?.blur(); // what was typed counts
  const start = at(event);
  if (tool === "polygon") return onCorner(start);
  byId("overlay").setPointerCapture(event.pointerId);
  const slot = slots[chosen];
  const corner = slot ? cornersOf(slot).findIndex((each) => near(each, start)) : -1;
  const place = corner < 0 ? slots.findLastIndex((each) => holds(each, start)) : chosen;
  drag = { start, corner, place, before: JSON.stringify(slots), from: slots[place] };
  if (place >= 0) choose(place);
}

function onCorner(point) {
  if (corners.length > 2 && near(corners[0], point)) return close();
  corners.push(inside(point));
  show();
}

function onMove(event) {
  if (!drag) return;
  const now = at(event);
  const [across, down] = [now[0] - drag.start[0], now[1] - drag.start[1]];
  if (!drag.moves && Math.hypot(across, down) < SMALLEST_PX * scale()) return;
  drag.moves = true;
  if (drag.place < 0) drag.box = pulled({ box: [0, 0, 0, 0] }, 0, inside(now), inside(drag.start)).box;
  else if (drag.corner >= 0) slots = replaced(pulled(drag.from, drag.corner, inside(now)));
  else slots = replaced(moved(drag.from, Math.round(across), Math.round(down)));
  showOverlay();
  if (drag.box) byId("overlay").append(drawing("polygon", { points: cornersOf(drag).map((each) => each.join(",")).join(" ") }));
}

function onUp(event) {
  const { box, moves, place, before } = drag ?? {};
  drag = null;
  if (before === undefined) return;
  const after = slots;
  slots = JSON.parse(before);
  if (event.type === "pointercancel") show(); // two fingers enlarge the page
  else if (moves && place >= 0) change(after);
  else if (box && box[2] - box[0] >= SMALLEST_PX * scale() && box[3] - box[1] >= SMALLEST_PX * scale()) add({ box });
  else if (place < 0) choose(-1);
}

// ---- the keyboard

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "s") attempt(save)();
    else if (event.target.matches("input")) return;
    else if (key === "z" && !event.shiftKey) travel(past, future);
    else if (key === "y" || key === "z") travel(future, past);
    else return;
  } else if (event.altKey || event.target.matches("input")) return;
  else if (ARROWS[key] && slots[chosen]) nudge(event);
  else if (key === "Delete" || key === "Backspace") remove();
  else if (key === "Enter" && event.target.matches("button")) return;
  else if (key === "Enter" && corners.length) close();
  else if (key === "Enter" && slots[chosen]) field("product").focus();
  else if (key === "Escape") corners.length ? take("polygon") : choose(-1);
  else if (key === "b") take("box");
  else if (key === "p") take("polygon");
  else if (key === "n") addBeside();
  else return;
  event.preventDefault();
}

function nudge(event) {
  const next = replaced((event.shiftKey ? resized : moved)(slots[chosen], ...ARROWS[event.key]));
  if (!event.repeat) return change(next);
  slots = next; // a key that is held is one step back
  show();
}

// ---- fields

function onField(event) {
  const { name, value } = event.target;
  const slot = slots[chosen];
  if (!slot) return;
  if (name !== "corners") return value.trim() === slot[name] || change(replaced({ ...slot, [name]: value.trim() }));
  const numbers = (value.match(/\d+(\.\d+)?/g) ?? []).map(Number);
  const pairs = numbers.flatMap((x, each) => (each % 2 ? [] : [[x, numbers[each + 1]]]));
  if (slot.box && numbers.length === 4) change(replaced({ ...slot, box: numbers }));
  else if (!slot.box && pairs.length > 2 && numbers.length % 2 === 0) change(replaced({ ...slot, polygon: pairs }));
  else complain(slot.box ? "A box has four numbers: left, top, right, bottom." : "A polygon has three corners or more: x, y; x, y; x, y.", "corners");
}

function matches() {
  const words = field("product").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = ({ name, gtin }) => `${name} ${gtin ?? ""}`.toLowerCase();
  return page.labels.filter((label) => words.every((word) => text(label).includes(word))).slice(0, SHOWN_PRODUCTS);
}

function showProducts() {
  const found = matches();
  marked = Math.min(marked, found.length - 1);
  field("product").ariaExpanded = String(found.length > 0);
  byId("products").replaceChildren(
    ...found.map(({ name, gtin }, place) => {
      const item = element("li", gtin ? `${name} (${gtin})` : name, { role: "option", "aria-selected": place === marked });
      item.onpointerdown = (event) => event.preventDefault(); // or the field would lose the focus, and the list with it
      item.onclick = () => pick(name);
      return item;
    }),
  );
}

function closeProducts() {
  marked = -1;
  field("product").ariaExpanded = "false";
  byId("products").replaceChildren();
}

function pick(product) {
  change(replaced({ ...slots[chosen], product }));
  field("product").blur();
}

function onProductKey(event) {
  const found = matches();
  if (event.key === "ArrowDown") marked += 1;
  else if (event.key === "ArrowUp") marked = Math.max(-1, marked - 1);
  else if (event.key === "Enter" && found.length && (marked >= 0 || found.length === 1)) return event.preventDefault(), pick(found[Math.max(0, marked)].name);
  else if (event.key === "Escape") return closeProducts();
  else return;
  event.preventDefault();
  showProducts();
}

// ---- the command

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, { method: "POST", body: JSON.stringify(body ?? {}) });
  } catch {
    throw new Error("The command has ended, and nothing can be saved any more: start edgebcnn slots again.");
  }
  if (answer.ok) return answer.json();
  const told = answer.status === 422 ? await answer.json() : { reason: await answer.text() };
  throw Object.assign(new Error(told.reason), { place: told.place });
}

const attempt = (action) => (event) => action(event).catch((error) => complain(error.message));

function complain(sentence, name) {
  tell(sentence);
  if (!name) return;
  field(name).ariaInvalid = "true";
  field(name).focus();
}

// Shelves in the order in which they first appear, and where each of their slots came from.
function shelvesOf() {
  const shelves = [];
  slots.forEach((slot, place) => {
    let shelf = shelves.find(({ name }) => name === slot.shelf);
    if (!shelf) shelves.push((shelf = { name: slot.shelf, slot: [], places: [] }));
    const { name, product, box, polygon } = slot;
    const expected = GTIN.test(product) && !page.labels.some((label) => label.name === product) ? { gtin: product } : { product };
    shelf.slot.push({ name, ...(product ? expected : {}), ...(box ? { box } : { polygon }) });
    shelf.places.push(place);
  });
  return shelves;
}

async function save() {
  document.activeElement?.blur();
  const shelves = shelvesOf();
  const now = JSON.stringify(slots);
  try {
    version = await ask("save", { version, shelf: shelves.map(({ name, slot }) => ({ name, slot })) });
  } catch (error) {
    const [top, row, part, column, key] = error.place ?? [];
    const place = top === "shelf" ? shelves[row]?.places[part === "slot" ? column : 0] : undefined;
    if (place === undefined) throw new Error(`Not saved. ${error.message}`);
    choose(place);
    const name = part === "slot" ? { box: "corners", polygon: "corners", name: "name" }[key] ?? "product" : "shelf";
    return complain(`Not saved. ${slots[place].shelf} ${slots[place].name}: ${error.message}`, name);
  }
  saved = now;
  byId("comments").hidden = true;
  show();
  tell(`Saved: ${page.file}`, "good");
}

async function load() {
  page = await ask("slots");
  version = page.version;
  const loaded = page.shelf.flatMap((shelf) => shelf.slot.map(({ gtin, product, ...slot }) => ({ shelf: shelf.name, product: product ?? gtin, ...slot })));
  document.querySelector("main").hidden = false;
  byId("file").textContent = document.title = page.file;
  byId("source").textContent = page.labels.length ? page.source : `${page.source}; without a bundle, products are not checked`;
  Object.assign(byId("picture"), { width: page.width_px, height: page.height_px, src: `picture.jpg?${page.picture}` });
  byId("see").hidden = !page.labels.length;
  byId("comments").hidden = !page.has_comments;
  saved = JSON.stringify(loaded);
  if (past.length || slots.length) change(loaded);
  slots = loaded;
  tell("");
  show();
}

async function see() {
  const asked = slots.map(cornersOf);
  const answers = await ask("see", { shapes: asked });
  seen = new Map(asked.map((shape, place) => [JSON.stringify(shape), answers[place]]));
  show();
}

async function another() {
  byId("picture").src = `picture.jpg?${await ask("picture")}`;
  seen = new Map();
  tell("");
  show();
}

async function done() {
  if (isChanged() && !leaving) {
    tell("There are changes that are not saved: save them, or press Done again to leave without.");
    leaving = true;
    return;
  }
  await ask("done");
  saved = JSON.stringify(slots);
  page = null;
  document.body.replaceChildren("Done. You can close this page.");
}

byId("box").onclick = () => take("box");
byId("polygon").onclick = () => take("polygon");
byId("add").onclick = addBeside;
byId("remove").onclick = remove;
byId("undo").onclick = () => travel(past, future);
byId("redo").onclick = () => travel(future, past);
for (const [name, action] of Object.entries({ another, see, load, done, save })) byId(name).onclick = attempt(action);
byId("form").onsubmit = (event) => event.preventDefault();
byId("form").onchange = onField;
field("product").onfocus = field("product").oninput = showProducts;
field("product").onblur = closeProducts;
field("product").onkeydown = onProductKey;
byId("overlay").onpointerdown = onDown;
byId("overlay").onpointermove = onMove;
byId("overlay").onpointerup = byId("overlay").onpointercancel = onUp;
document.addEventListener("keydown", onKey);
addEventListener("resize", () => page && showOverlay());
addEventListener("beforeunload", (event) => isChanged() && event.preventDefault());
attempt(load)();
