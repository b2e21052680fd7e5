"use strict";
// Players of clips, and the search in the list of predictions. A clip in view plays by itself unless the reader prefers
// reduced motion or has paused it.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

class Sprite {
  // Pictures of one size in one sheet; numbers[i] is the frame of picture i.
  constructor(sprite, numbers) {
    this.sprite = sprite;
    this.index = new Map(numbers.map((frame, index) => [frame, index]));
    this.image = new Image();
    this.ready = new Promise((resolve) => { this.image.onload = resolve; });
    this.image.src = sprite.uri;
  }

  draw(canvas, frame) {
    const { width, height, columns } = this.sprite;
    const index = this.index.get(frame);
    if (index === undefined || !this.image.complete) return;
    const [x, y] = [(index % columns) * width, Math.floor(index / columns) * height];
    const context = canvas.getContext("2d");
    context.drawImage(this.image, x, y, width, height, 0, 0, canvas.width, canvas.height);
  }
}

class Player {
  constructor(box, clip) {
    this.box = box;
    this.clip = clip;
    this.frame = 0;
    this.timer = null;
    this.held = false; // paused by the reader
    const bytes = Uint8Array.from(atob(clip.keypoints), (letter) => letter.charCodeAt(0));
    this.numbers = new Int16Array(bytes.buffer); // [frame, joint, (x, y, confidence)]
    this.skeleton = box.querySelector(".skeleton canvas");
    this.skeleton.width = 544;
    this.skeleton.height = Math.round((544 * clip.height) / clip.width);
    this.hands = clip.hands.filter((hand) => hand.sprite).map((hand) => {
      const figure = box.querySelector(`.hand[data-hand="${hand.name}"]`);
      const canvas = figure.querySelector("canvas");
      canvas.width = canvas.height = 224;
      const sprite = new Sprite(hand.sprite, hand.shown);
      return { figure, canvas, sprite, state: figure.querySelector(".state"), sampled: new Set(hand.sampled) };
    });
    this.video = clip.video && new Sprite(clip.video, clip.frames.map((_, index) => index));
    this.over = box.querySelector(".over");
    this.over?.addEventListener("change", () => this.drawSkeleton());
    this.button = box.querySelector(".toggle");
    this.slider = box.querySelector('input[type="range"]');
    this.button.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => { this.hold(); this.show(this.slider.value - 1); });
    this.slider.addEventListener("keydown", (event) => {
      if (event.key === " ") { event.preventDefault(); this.toggle(); }
    });
    this.show(0);
    for (const sprite of [this.video, ...this.hands.map((hand) => hand.sprite)]) sprite?.ready.then(() => this.show(this.frame));
  }

  toggle() { if (this.timer) this.hold(); else { this.held = false; this.play(); } }

  hold() { this.held = true; this.pause(); }

  play() {
    if (this.timer) return;
    this.timer = setInterval(() => this.next(), 1000 / this.clip.fps);
    this.button.querySelector(".word").textContent = "Pause";
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.querySelector(".word").textContent = "Play";
  }

  next() {
    const last = this.frame === this.clip.frames.length - 1;
    this.show(last ? 0 : this.frame + 1);
    if (last && still.matches) this.hold(); // once through is enough
  }

  show(frame) {
    const { clip } = this;
    this.frame = frame;
    this.slider.value = frame + 1;
    const seconds = (clip.frames[frame] - clip.frames[0]) / clip.rate;
    this.box.querySelector("output").textContent = `${frame + 1} of ${clip.frames.length}, ${seconds.toFixed(2)} s`;
    this.slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${clip.frames.length}`);
    for (const line of this.box.querySelectorAll(".now")) line.style.left = `${(100 * (frame + 0.5)) / clip.frames.length}%`;
    this.drawSkeleton();
    for (const hand of this.hands) this.drawHand(hand);
  }

  drawHand({ figure, canvas, sprite, state, sampled }) {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    const there = sprite.index.has(this.frame);
    if (there) sprite.draw(canvas, this.frame);
    const isSampled = sampled.has(this.frame);
    figure.classList.toggle("sampled", isSampled);
    state.textContent = isSampled ? "▲ sampled" : there ? "not sampled" : "no crop";
  }

  joint(number) {
    const [at, { fraction }] = [3 * (this.frame * this.clip.joints + number), this.clip];
    const [x, y, confidence] = this.numbers.subarray(at, at + 3);
    return [(x / fraction) * this.skeleton.width, (y / fraction) * this.skeleton.height, confidence / fraction];
  }

  drawSkeleton() {
    const { clip, skeleton } = this;
    const context = skeleton.getContext("2d");
    context.clearRect(0, 0, skeleton.width, skeleton.height);
    const isOver = this.video && this.over.checked;
    if (isOver) this.video.draw(skeleton, this.frame);
    context.lineCap = "round";
    // A rim in the colour of the paper sets lines off from a picture of any brightness.
    if (isOver) this.drawParts(context, () => colour("paper"), 4);
    this.drawParts(context, (part) => colour({ left: "left", right: "right" }[part] ?? "ink"), 0);
  }

  drawParts(context, hueOf, rim) {
    const { clip } = this;
    for (const [part, edges] of Object.entries(clip.parts)) {
      context.strokeStyle = context.fillStyle = hueOf(part);
      context.lineWidth = (part === "body" ? 5 : 3) + rim;
      for (const [a, b] of edges) {
        const [[ax, ay, ac], [bx, by, bc]] = [this.joint(a), this.joint(b)];
        context.setLineDash(Math.min(ac, bc) > clip.confident ? [] : [2, 7 + rim]);
        context.beginPath();
        context.moveTo(ax, ay);
        context.lineTo(bx, by);
        context.stroke();
      }
      const [first, end] = clip.slices[part];
      for (let number = first; number < end; number++) this.dot(context, number, (part === "face" ? 2 : 4) + rim / 2);
      if (part === "left" || part === "right") this.letter(context, part, first, rim);
    }
  }

  dot(context, number, radius) {
    const [x, y, confidence] = this.joint(number);
    if (confidence <= this.clip.confident) return;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  letter(context, part, wrist, rim) {
    const [x, y] = this.joint(wrist);
    const label = [part === "left" ? "L" : "R", x + (part === "left" ? 14 : -34), y + 30];
    context.font = "bold 26px system-ui, sans-serif";
    context.setLineDash([]);
    if (rim) context.strokeText(...label);
    context.fillText(...label);
  }
}

class Search {
  // The list of predictions: rows that hold what is searched for, in the order that is chosen.
  constructor(box) {
    this.body = document.getElementById("rows");
    this.rows = [...this.body.rows];
    this.texts = null;
    this.query = document.getElementById("query");
    this.order = document.getElementById("order");
    this.query.addEventListener("input", () => this.filter());
    this.order.addEventListener("change", () => this.sort());
    box.hidden = false;
    this.filter();
  }

  static plain(text) { return text.normalize("NFKC").toLowerCase(); }

  static text(row) { // without the marks of differences
    const copy = row.cloneNode(true);
    for (const mark of copy.querySelectorAll(".hidden, .sign, dt")) mark.remove();
    return [...copy.querySelectorAll("code, dd, .quiet")].map((part) => Search.plain(part.textContent)).join("\n");
  }

  filter() {
    const query = Search.plain(this.query.value.trim());
    if (query) this.texts ??= new Map(this.rows.map((row) => [row, Search.text(row)]));
    let count = 0;
    for (const row of this.rows) {
      row.hidden = query !== "" && !this.texts.get(row).includes(query);
      count += !row.hidden;
    }
    document.getElementById("matches").textContent = `${count} of ${this.rows.length} clips`;
  }

  sort() {
    const sign = { file: 0, worst: 1, best: -1 }[this.order.value];
    const sorted = [...this.rows].sort((a, b) => sign * (a.dataset.quality - b.dataset.quality)); // stable
    this.body.append(...sorted);
  }
}

const search = document.getElementById("search");
if (search) new Search(search);
const players = JSON.parse(document.getElementById("players").textContent).map(
  (clip) => new Player(document.querySelector(`.player[data-index="${clip.index}"]`), clip),
);
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const player = players.find(({ box }) => box === target);
    if (!isIntersecting) player.pause();
    else if (!player.held && !still.matches) player.play();
  }
}, { threshold: 0.5 });
for (const player of players) watcher.observe(player.box);
document.getElementById("pause-all")?.addEventListener("click", () => players.forEach((player) => player.hold()));
dark.addEventListener("change", () => players.forEach((player) => player.show(player.frame)));
still.addEventListener("change", () => { if (still.matches) players.forEach((player) => player.pause()); });
