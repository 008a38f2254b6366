// Galleries: pictures and videos of decompositions, and what is left of them without some of their slots.
"use strict";

{
  const { make, content } = report;
  const FRAMES_PER_SECOND = 6;
  const GREY = 128; // behind single slots
  const CHECKS = [176, 208]; // behind holes
  const CHECK_SIZE = 4;
  const loaded = new Map();
  const waiting = new Map();
  let players = [];

  // Every gallery is a script that calls this, since a page from file:// cannot fetch.
  report.galleryLoaded = (file, gallery) => {
    loaded.set(file, gallery);
    waiting.get(file)?.(gallery);
  };

  const load = (file) =>
    new Promise((resolve, reject) => {
      if (loaded.has(file)) return resolve(loaded.get(file));
      waiting.set(file, resolve);
      document.head.append(make("script", { src: file, onerror: () => reject(new Error(`${file} is missing. Make the page again by tools/report.py`)) }));
    });

  const decoded = async (uri) => {
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image;
  };

  const canvasOf = (sample, label) => make("canvas", { width: sample.width, height: sample.height, role: "img", "aria-label": label });

  // Bytes of one frame of an atlas: slot above slot.
  const scratch = document.createElement("canvas");
  const column = (image, sample, frame) => {
    scratch.width = sample.width;
    scratch.height = image.height;
    const context = scratch.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, frame * sample.width, 0, sample.width, image.height, 0, 0, sample.width, image.height);
    return context.getImageData(0, 0, sample.width, image.height).data;
  };

  const rowOf = (canvas, caption) => make("figure", {}, canvas, make("figcaption", {}, caption));

  class Player {
    constructor(sample, images) {
      Object.assign(this, { sample, images, frame: 0, playing: false, shown: true, on: sample.slots.map(() => true), holes: true });
      this.pictures = [
        ["input", "Input"],
        ["truth", "Truth"],
        ["prediction", "Prediction"],
        ["reconstruction", "Reconstruction"],
      ].filter(([key]) => images[key]);
      this.canvases = this.pictures.map(([, title]) => canvasOf(sample, `${title} of sample ${sample.number}`));
      this.slots = sample.slots.map((slot) => canvasOf(sample, `${slot.name} of sample ${sample.number}`));
      this.recomposed = canvasOf(sample, `Recomposition of sample ${sample.number} from the slots that are on`);
      this.recomposed.classList.add("recomposed");
    }

    element() {
      const { sample } = this;
      const slots = sample.slots.map((slot, number) =>
        make(
          "button",
          {
            type: "button",
            "aria-pressed": "true",
            style: `--own: ${slot.colour}`,
            onclick: () => this.switchSlot(number, !this.on[number]),
          },
          this.slots[number],
          make("span", {}, `${slot.name}, ${(100 * slot.share).toFixed(slot.share < 0.0995 ? 1 : 0)} %`),
        ),
      );
      this.buttons = slots;
      const choice = (title, holes) =>
        make(
          "label",
          { class: "beside" },
          make("input", { type: "radio", name: `holes-${sample.number}`, checked: holes === this.holes, onchange: () => this.showHoles(holes) }),
          title,
        );
      const all = (title, on) => make("button", { type: "button", onclick: () => this.on.forEach((_, number) => this.switchSlot(number, on)) }, title);
      return make(
        "article",
        { class: "sample" },
        make("h3", {}, `Sample ${sample.number}`),
        make("p", { class: "quiet" }, this.scores()),
        sample.frames > 1 ? this.controls() : null,
        make(
          "div",
          { class: "cells" },
          ...this.pictures.map(([, title], number) => rowOf(this.canvases[number], title)),
          rowOf(this.recomposed, "Recomposition"),
        ),
        make("div", { class: "cells slots", role: "group", "aria-label": "Slots, switched on and off" }, ...slots),
        make(
          "div",
          { class: "bar" },
          make("fieldset", {}, make("legend", {}, "Where slots are off"), choice("holes shown", true), choice("renormalised: the others fill in", false)),
          make("div", {}, all("all on", true), " ", all("all off", false)),
        ),
      );
    }

    // Of all frames that are shown.
    scores() {
      const known = Object.entries(this.sample.scores ?? {}).filter(([, value]) => value !== null);
      return known.map(([name, value]) => `${content.scores[name]?.title ?? name} ${report.number(value)}`).join(", ");
    }

    controls() {
      const { sample } = this;
      this.button = make("button", { type: "button", class: "play", onclick: () => this.play(!this.playing) }, "Play");
      this.scrubber = make("input", {
        type: "range",
        min: 0,
        max: sample.frames - 1,
        value: 0,
        "aria-label": `Frame of sample ${sample.number}`,
        oninput: (event) => (this.play(false), this.draw(Number(event.target.value))),
      });
      this.position = make("output", { class: "quiet" });
      return make("div", { class: "bar" }, this.button, this.scrubber, this.position);
    }

    play(on) {
      this.playing = on;
      this.button.textContent = on ? "Pause" : "Play";
      if (on) tick();
    }

    switchSlot(number, on) {
      this.on[number] = on;
      this.buttons[number].setAttribute("aria-pressed", String(on));
      this.recompose();
    }

    showHoles(holes) {
      this.holes = holes;
      this.recompose();
    }

    draw(frame) {
      const { sample, images } = this;
      const { width, height } = sample;
      this.frame = frame;
      this.pictures.forEach(([key], number) => {
        this.canvases[number].getContext("2d").drawImage(images[key], frame * width, 0, width, height, 0, 0, width, height);
      });
      this.masks = column(images.masks, sample, frame);
      this.rgb = column(images.rgb ?? images.input, sample, frame);
      this.slots.forEach((canvas, slot) => this.drawSlot(canvas, slot));
      this.recompose();
      if (this.scrubber) {
        this.scrubber.value = frame;
        this.position.textContent = `${frame + 1} / ${sample.frames}`;
      }
    }

    // Where the picture of a slot begins; without pictures of their own all slots show the input.
    offset(slot) {
      return this.images.rgb ? slot * this.sample.width * this.sample.height * 4 : 0;
    }

    drawSlot(canvas, slot) {
      const { width, height } = this.sample;
      const [output, size] = [new ImageData(width, height), width * height * 4];
      for (let place = 0; place < size; place += 4) {
        const mask = this.masks[slot * size + place] / 255;
        for (let channel = 0; channel < 3; channel++) {
          output.data[place + channel] = mask * this.rgb[this.offset(slot) + place + channel] + (1 - mask) * GREY;
        }
        output.data[place + 3] = 255;
      }
      canvas.getContext("2d").putImageData(output, 0, 0);
    }

    // Sum of mask x rgb of the slots that are on; divided by the sum of their masks, or with checks behind what is open.
    recompose() {
      const { width, height } = this.sample;
      const [output, size] = [new ImageData(width, height), width * height * 4];
      const chosen = this.on.flatMap((on, slot) => (on ? [slot] : []));
      for (let place = 0; place < size; place += 4) {
        let [red, green, blue, mass, whole] = [0, 0, 0, 0, 0];
        for (let slot = 0; slot < this.on.length; slot++) whole += this.masks[slot * size + place];
        for (const slot of chosen) {
          const mask = this.masks[slot * size + place] / (whole || 1); // bytes of masks add up to 255 within rounding
          const start = this.offset(slot) + place;
          red += mask * this.rgb[start];
          green += mask * this.rgb[start + 1];
          blue += mask * this.rgb[start + 2];
          mass += mask;
        }
        const pixel = place / 4;
        const odd = (Math.floor((pixel % width) / CHECK_SIZE) + Math.floor(pixel / width / CHECK_SIZE)) % 2;
        const fills = !this.holes && mass > 0.002; // less than half a byte of all that remains says nothing
        const [factor, ground] = fills ? [1 / mass, 0] : [1, (1 - mass) * CHECKS[odd]];
        output.data.set([red * factor + ground, green * factor + ground, blue * factor + ground, 255], place);
      }
      this.recomposed.getContext("2d").putImageData(output, 0, 0);
    }
  }

  let running = false;
  const tick = () => {
    if (running) return;
    running = true;
    let last = performance.now();
    const step = (now) => {
      const active = players.filter((player) => player.playing);
      if (!active.length) return (running = false);
      if (now - last >= 1000 / FRAMES_PER_SECOND) {
        last = now;
        for (const player of active) if (player.shown) player.draw((player.frame + 1) % player.sample.frames);
      }
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  };

  const visible = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const player = players.find((other) => other.article === entry.target);
      if (player) player.shown = entry.isIntersecting;
    }
  });

  const body = document.getElementById("gallery-body");
  const named = new Map(content.galleries.map((gallery) => [gallery.file, `${gallery.run} on ${gallery.data}`]));
  const place = make("div", { id: "gallery-samples" });
  let asked = null;

  const open = async (file) => {
    asked = file;
    players.forEach((player) => (player.playing = false));
    try {
      const gallery = await load(file);
      const made = await Promise.all(
        gallery.samples.map(async (sample) => {
          const uris = { ...sample.strips, masks: sample.masks, rgb: sample.rgb };
          const images = {};
          for (const [key, uri] of Object.entries(uris)) if (uri) images[key] = await decoded(uri);
          return new Player(sample, images);
        }),
      );
      if (asked !== file) return;
      visible.disconnect();
      players = made;
      const layers = gallery.hasRgb
        ? "A slot is its mask x its own picture, on grey; the recomposition is their sum."
        : "This model decodes no picture per slot: a slot is its mask x the input, on grey, and the recomposition is their sum.";
      place.replaceChildren(
        make("p", { class: "quiet" }, `${gallery.remark} ${layers} Choose a slot to switch it off. Per cent: its share of the picture.`),
        ...players.map((player) => (player.article = player.element())),
      );
      place.dataset.gallery = named.get(file);
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      for (const player of players) {
        player.draw(0);
        visible.observe(player.article);
        if (player.sample.frames > 1 && !still) player.play(true);
      }
    } catch (error) {
      if (asked === file) place.replaceChildren(report.notice([String(error.message ?? error)], "error"));
    }
  };

  if (content.galleries.length) {
    const [first] = named.keys();
    body.append(make("div", { class: "bar" }, report.choice("Run and data set", [...named], open, first)), place);
    // Pictures are many: they are read when the gallery comes near the window, or is asked for.
    const near = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        near.disconnect();
        if (asked === null) open(first);
      },
      { rootMargin: "600px" },
    );
    near.observe(body);
  }
  if (content.notes.galleries.length) body.append(report.notice(content.notes.galleries));
}
