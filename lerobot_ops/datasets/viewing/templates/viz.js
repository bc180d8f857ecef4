"use strict";
// One cursor, in frames, over all videos and plots. Whatever moves it calls `show`.
(() => {
const $ = (id) => document.getElementById(id);
const content = JSON.parse($("content").textContent);
const frames = content.frames, fps = content.fps, last = frames - 1;
const videos = [...document.querySelectorAll("video[data-clip]")];
const notes = [...document.querySelectorAll(".notes tr[data-frame]")];
let cursor = 0, playing = false, clock = null;

// ---- content

function bytes(text) {
  const raw = atob(text), result = new Uint8Array(raw.length);
  for (let place = 0; place < raw.length; place++) result[place] = raw.charCodeAt(place);
  return result;
}

function values(line) {
  const { buffer } = bytes(line.values);
  return line.dtype === "float32" ? new Float32Array(buffer) : new Float64Array(buffer);
}

for (const video of videos) {
  const script = $(video.dataset.clip);
  video.src = URL.createObjectURL(new Blob([bytes(script.textContent)], { type: "video/mp4" }));
  script.remove(); // the bytes are needed once
  video.addEventListener("loadedmetadata", () => { place(video); report(); });
  video.addEventListener("seeked", report);
  video.addEventListener("error", () => {
    video.closest("figure").querySelector("figcaption").append(" This browser cannot play it.");
    report();
  });
  video.addEventListener("click", toggle);
}

// What the page shows, for whoever reads the document from outside.
function report() {
  document.documentElement.dataset.frame = cursor;
  for (const video of videos) {
    video.dataset.size = `${video.videoWidth}x${video.videoHeight}`;
    video.dataset.duration = video.duration;
    video.dataset.time = video.currentTime;
    video.dataset.error = video.error ? video.error.message : "";
  }
}

// ---- cursor

const startOf = (video) => Number(video.dataset.start);
const place = (video) => { video.currentTime = startOf(video) + (cursor + 0.5) / fps; }; // the middle of the frame
const clamp = (frame) => Math.min(last, Math.max(0, frame));

function show(frame) {
  cursor = clamp(frame);
  $("place").value = cursor;
  $("now").textContent = `${(cursor / fps).toFixed(2)} s`;
  $("frame").textContent = ` frame ${cursor} of ${frames}`;
  for (const plot of plots) if (plot.visible) plot.point();
  mark();
  report();
}

function seek(frame) {
  show(Math.round(frame));
  videos.forEach(place);
  if (playing) clock = { at: performance.now(), frame: cursor };
}

function mark() { // the texts that hold now
  const lasting = new Map();
  for (const row of notes) {
    row.classList.remove("now");
    const at = Number(row.dataset.frame);
    if ("lasting" in row.dataset) { if (at <= cursor) lasting.set(row.dataset.kind, row); }
    else row.classList.toggle("now", at <= cursor && cursor < at + fps);
  }
  for (const row of lasting.values()) row.classList.add("now");
}

const master = () => videos.find((video) => !video.error && video.readyState >= 2 && !video.ended);

function tick() {
  if (!playing) return;
  const video = master();
  if (video) {
    show(Math.floor((video.currentTime - startOf(video)) * fps + 1e-6));
    for (const other of videos) {
      const offset = (other.currentTime - startOf(other)) - (video.currentTime - startOf(video));
      if (other !== video && Math.abs(offset) > Math.max(0.1, 2 / fps)) other.currentTime -= offset;
    }
    clock = { at: performance.now(), frame: cursor };
  } else {
    show(Math.floor(clock.frame + (performance.now() - clock.at) / 1000 * fps * rate()));
  }
  if (cursor >= last) stop(); else requestAnimationFrame(tick);
}

const rate = () => Number($("rate").value);

function play() {
  if (cursor >= last) seek(0);
  playing = true;
  clock = { at: performance.now(), frame: cursor };
  $("play").textContent = "Pause";
  for (const video of videos) { video.playbackRate = rate(); video.play().catch(() => {}); }
  requestAnimationFrame(tick);
}

function stop() {
  playing = false;
  $("play").textContent = "Play";
  for (const video of videos) { video.pause(); place(video); }
}

function toggle() { if (playing) stop(); else play(); }
function step(count) { if (playing) stop(); seek(cursor + count); }

// ---- plots

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const LEFT = 46, RIGHT = 4, TOP = 6, BOTTOM = 16;

function short(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(4);
}

const tidy = (text) => text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, ""); // 0.5000 as 0.5

function niceStep(span, count) { // 1, 2 or 5 times a power of ten
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough)), share = rough / power;
  return power * (share > 5 ? 10 : share > 2 ? 5 : share > 1 ? 2 : 1);
}

class Plot {
  constructor(spec, parent, features) {
    const several = features.length > 1; // then a line's colour says of which feature it is
    this.visible = false;
    this.name = (spec.title + " " + spec.lines.map((line) => line.feature + " " + line.name).join(" ")).toLowerCase();
    this.lines = spec.lines.map((line, number) => ({ ...line, values: null, text: line.values, shown: true,
      colour: `--line${several ? features.indexOf(line.feature) : (number + (line.feature === "action")) % 8}` }));
    this.box = element(parent, "div", "plot");
    const head = element(this.box, "div", "head");
    element(head, "b").textContent = spec.title;
    const legend = element(head, "span", "legend");
    for (const line of this.lines) {
      line.button = element(legend, "button");
      line.button.type = "button";
      line.button.setAttribute("aria-pressed", "true");
      line.button.style.setProperty("--colour", `var(${line.colour})`);
      const label = several ? shortName(line.feature) : this.lines.length > 1 ? line.name : "";
      element(line.button, "span").textContent = label;
      line.output = element(line.button, "output");
      line.button.addEventListener("click", () => this.switch(line, !line.shown));
    }
    this.area = element(this.box, "div", "canvas");
    this.canvas = element(this.area, "canvas");
    this.cursor = element(this.area, "i");
    this.area.addEventListener("pointerdown", (event) => { this.pick(event); this.area.setPointerCapture(event.pointerId); });
    this.area.addEventListener("pointermove", (event) => { if (event.buttons) this.pick(event); });
  }

  switch(line, shown) {
    line.shown = shown;
    line.button.setAttribute("aria-pressed", String(shown));
    if (this.visible) this.draw();
  }

  pick(event) {
    const box = this.area.getBoundingClientRect();
    seek((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT) * Math.max(1, last));
  }

  x(frame) { return LEFT + frame / Math.max(1, last) * (this.width - LEFT - RIGHT); }

  range() {
    let low = Infinity, high = -Infinity;
    for (const line of this.lines) {
      if (!line.shown) continue;
      for (const value of line.values) if (Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
    }
    if (low > high) return [0, 1];
    const margin = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
    return [low - margin, high + margin];
  }

  draw() {
    for (const line of this.lines) line.values ??= values({ values: line.text, dtype: line.dtype });
    this.width = this.area.clientWidth;
    this.height = this.area.clientHeight;
    if (!this.width) return;
    const scale = window.devicePixelRatio || 1, context = this.canvas.getContext("2d");
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const [low, high] = this.range(), floor = this.height - BOTTOM;
    const y = (value) => TOP + (high - value) / (high - low) * (floor - TOP);
    this.grid(context, low, high, y, floor);
    for (const line of this.lines) if (line.shown) this.trace(context, line, y);
    this.point();
  }

  grid(context, low, high, y, floor) {
    context.font = "10.5px system-ui, sans-serif";
    context.strokeStyle = colour("--line");
    context.fillStyle = colour("--soft");
    context.lineWidth = 1;
    const seconds = last / fps, pace = niceStep(Math.max(seconds, 1 / fps), Math.max(2, this.width / 90));
    context.textBaseline = "alphabetic";
    for (let number = 0; number * pace <= seconds * 1.0001; number++) {
      const at = number * pace, x = Math.round(this.x(at * fps)) + 0.5;
      context.beginPath(); context.moveTo(x, TOP); context.lineTo(x, floor); context.stroke();
      context.textAlign = x > this.width - 24 ? "right" : "center";
      context.fillText(`${Number(at.toPrecision(6))} s`, x, this.height - 3);
    }
    const gap = niceStep(high - low, 4);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let value = Math.ceil(low / gap) * gap; value <= high; value += gap) {
      const at = Math.round(y(value)) + 0.5;
      context.beginPath(); context.moveTo(LEFT, at); context.lineTo(this.width - RIGHT, at); context.stroke();
      context.fillText(tidy(short(Math.abs(value) < gap / 1e6 ? 0 : value)), LEFT - 6, at);
    }
  }

  trace(context, line, y) {
    context.strokeStyle = colour(line.colour);
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    const dense = frames > 3 * this.width, per = dense ? frames / this.width : 1;
    let pen = false;
    for (let start = 0; start < frames; start += per) { // where frames are denser than pixels: least and greatest
      const from = Math.floor(start), to = dense ? Math.max(from + 1, Math.floor(start + per)) : from + 1;
      let low = Infinity, high = -Infinity;
      for (let frame = from; frame < to && frame < frames; frame++) {
        const value = line.values[frame];
        if (Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
      }
      if (low > high) { pen = false; continue; }
      const x = this.x(from);
      if (!pen) context.moveTo(x, y(low));
      else if (line.steps && !dense) { context.lineTo(x, y(line.values[from - 1])); context.lineTo(x, y(low)); }
      else context.lineTo(x, y(low));
      if (high > low) context.lineTo(x, y(high));
      pen = true;
    }
    context.stroke();
    if (frames === 1 && pen) { context.beginPath(); context.arc(this.x(0) + 3, y(line.values[0]), 2.5, 0, 7); context.stroke(); }
  }

  point() {
    if (!this.width) return;
    this.cursor.style.transform = `translateX(${this.x(cursor)}px)`;
    for (const line of this.lines) line.output.textContent = short(line.values[cursor]);
  }
}

function element(parent, tag, name) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  return parent.appendChild(made);
}

const shortName = (feature) => feature.replace(/^observation\./, "");
const groups = [...document.querySelectorAll(".group")];
const plots = groups.flatMap((group, number) => {
  const specs = content.groups[number];
  const features = group.dataset.layers ? group.dataset.layers.split(" ") : [specs[0].lines[0].feature];
  const made = specs.map((spec) => new Plot(spec, group.querySelector(".plots"), features));
  if (features.length > 1) layers(group, features, made);
  return made;
});

function layers(group, features, made) { // one legend for all plots of a group
  const legend = element(group.querySelector("summary"), "span", "legend");
  features.forEach((feature, number) => {
    const button = element(legend, "button");
    button.type = "button";
    button.textContent = shortName(feature);
    button.setAttribute("aria-pressed", "true");
    button.style.setProperty("--colour", `var(--line${number})`);
    button.addEventListener("click", (event) => {
      event.preventDefault(); // or the group would fold
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const plot of made) for (const line of plot.lines) if (line.feature === feature) plot.switch(line, shown);
    });
  });
}
const plotOf = new Map(plots.map((plot) => [plot.area, plot]));

// Only what is looked at is drawn, so that hundreds of plots cost nothing until someone scrolls to them.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plot = plotOf.get(entry.target);
    plot.visible = entry.isIntersecting;
    if (plot.visible) plot.draw();
  }
}, { rootMargin: "200px" });
const resized = new ResizeObserver((entries) => {
  for (const entry of entries) { const plot = plotOf.get(entry.target); if (plot.visible) plot.draw(); }
});
for (const area of plotOf.keys()) { watcher.observe(area); resized.observe(area); }
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of plots) if (plot.visible) plot.draw();
});

// ---- controls

$("place").max = last;
$("place").addEventListener("input", () => { if (playing) stop(); seek(Number($("place").value)); });
$("play").addEventListener("click", toggle);
$("back").addEventListener("click", () => step(-1));
$("on").addEventListener("click", () => step(1));
$("rate").addEventListener("change", () => {
  for (const video of videos) video.playbackRate = rate();
  clock = { at: performance.now(), frame: cursor };
});
$("filter")?.addEventListener("input", () => {
  const wanted = $("filter").value.trim().toLowerCase();
  for (const plot of plots) plot.box.hidden = !plot.name.includes(wanted);
  for (const group of groups) {
    group.hidden = ![...group.querySelectorAll(".plot")].some((box) => !box.hidden);
    if (wanted) group.open = true;
  }
});
for (const row of notes) row.addEventListener("click", () => seek(Number(row.dataset.frame)));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input[type=search], select")) return;
  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -frames, End: frames };
  if (event.key in moves) step(event.shiftKey ? moves[event.key] * fps : moves[event.key]);
  else if (event.key === " " && !event.target.closest("button, summary, a")) toggle();
  else return;
  event.preventDefault();
});

function follow() { // #t=1.5 leads to a moment
  const found = /[#&]t=([0-9.]+)/.exec(location.hash);
  if (found) seek(Number(found[1]) * fps);
}
addEventListener("hashchange", follow);
show(0);
follow();
})();
