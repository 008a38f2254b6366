// Curves of the trainings: one scalar of all runs in one chart.
"use strict";

{
  const { make, content } = report;
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 58, right: 10, top: 10, bottom: 34 };
  const runs = content.runs.filter((run) => Object.keys(run.curves).length);
  const counts = new Map();
  for (const name of runs.flatMap((run) => Object.keys(run.curves))) counts.set(name, (counts.get(name) ?? 0) + 1);
  const names = [...counts.keys()].sort();
  const rank = (name) => counts.get(name) + 2 * runs.length * /^(train\/)?loss$/i.test(name); // losses first, then what most have
  const state = {
    scalar: [...names].sort((left, right) => rank(right) - rank(left))[0],
    log: false,
    smoothing: 0,
    hidden: new Set(),
    cursor: null, // a step
  };

  // A loss that falls by powers of ten is drawn so from the start.
  const known = runs.flatMap((run) => run.curves[state.scalar]?.values ?? []).filter((value) => value !== null);
  const [least, most] = [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), 0)];
  state.log = least > 0 && most > 30 * least;

  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Exponential means as TensorBoard's: without bias towards the first value.
  const smoothed = (values, weight) => {
    let [sum, mass] = [0, 0];
    return values.map((value) => {
      if (value === null) return null;
      sum = sum * weight + (1 - weight) * value;
      mass = mass * weight + (1 - weight);
      return sum / mass;
    });
  };

  const linearTicks = (low, high, count) => {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, number) => (first + number) * step);
  };

  const logTicks = (low, high) => {
    const decades = Math.log10(high / low);
    const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
    const every = Math.max(1, Math.round(decades / 6));
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
      for (const factor of factors) ticks.push(factor * 10 ** power);
    }
    return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  };

  const spread = (low, high) => (high > low ? [low, high] : [low - Math.max(Math.abs(low), 1) / 2, high + Math.max(Math.abs(high), 1) / 2]);

  const series = () =>
    runs
      .filter((run) => run.curves[state.scalar])
      .map((run) => {
        const curve = run.curves[state.scalar];
        const admissible = (value) => value !== null && (!state.log || value > 0);
        const raw = curve.values.map((value) => (admissible(value) ? value : null));
        const dropped = curve.values.filter((value) => !admissible(value)).length;
        return { run: run.name, steps: curve.steps, raw, values: smoothed(raw, state.smoothing), dropped, perPoint: curve.perPoint };
      });

  const body = document.getElementById("curves-body");
  const chart = draw("svg", { class: "chart", tabindex: "0", role: "img" });
  const legend = make("ul", { class: "legend" });
  const remark = make("p", { class: "quiet" });
  let geometry = null;

  const drawChart = () => {
    const width = Math.max(260, body.clientWidth);
    const height = width < 560 ? 240 : 340;
    const lines = series().filter((line) => !state.hidden.has(line.run));
    const finite = lines.flatMap((line) => (state.smoothing ? line.values.concat(line.raw) : line.values)).filter((value) => value !== null);
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.setAttribute("aria-label", `${state.scalar} over training steps, ${lines.length} runs; arrow keys read values`);
    chart.replaceChildren();
    const steps = lines.flatMap((line) => line.steps);
    const [first, last] = spread(steps.reduce((a, b) => Math.min(a, b), Infinity), steps.reduce((a, b) => Math.max(a, b), -Infinity));
    let [low, high] = [finite.reduce((a, b) => Math.min(a, b), Infinity), finite.reduce((a, b) => Math.max(a, b), -Infinity)];
    if (finite.length) {
      if (state.log) [low, high] = high > low ? [low, high] : [low / 2, high * 2];
      else {
        [low, high] = spread(low, high);
        [low, high] = [low - 0.03 * (high - low), high + 0.03 * (high - low)];
      }
    }
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const x = (step) => MARGIN.left + ((step - first) / (last - first)) * inner.width;
    const scale = state.log ? Math.log : (value) => value;
    const y = (value) => MARGIN.top + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low))) * inner.height;
    geometry = { first, last, x, width, height };
    if (!finite.length) {
      chart.append(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, lines.length ? "no values to draw" : "no run chosen"));
      return;
    }
    for (const tick of state.log ? logTicks(low, high) : linearTicks(low, high, height < 300 ? 4 : 6)) {
      chart.append(draw("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
      chart.append(draw("text", { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }, report.number(tick)));
    }
    for (const tick of linearTicks(first, last, Math.max(2, Math.round(width / 130)))) {
      chart.append(draw("line", { class: "grid", x1: x(tick), x2: x(tick), y1: height - MARGIN.bottom, y2: height - MARGIN.bottom + 5 }));
      chart.append(draw("text", { x: Math.min(x(tick), width - 24), y: height - MARGIN.bottom + 19, "text-anchor": "middle" }, tick.toLocaleString("en")));
    }
    chart.append(draw("text", { x: width - MARGIN.right, y: height - 1, "text-anchor": "end" }, "step"));
    const path = (line, values) => {
      let pen = "M";
      return line.steps
        .map((step, number) => {
          if (values[number] === null) return (pen = "M"), "";
          const point = `${pen}${x(step).toFixed(1)} ${y(values[number]).toFixed(1)}`;
          return (pen = "L"), point;
        })
        .join("");
    };
    for (const line of lines) {
      const stroke = `stroke: ${report.colourOf(line.run)}`;
      const dashes = ["", "6 3", "2 3"][Math.floor(content.runs.findIndex((run) => run.name === line.run) / 8) % 3];
      if (state.smoothing) chart.append(draw("path", { class: "raw", d: path(line, line.raw), style: stroke }));
      chart.append(draw("path", { d: path(line, line.values), style: stroke, "stroke-dasharray": dashes, "data-run": line.run }));
    }
    if (state.cursor !== null) {
      chart.append(draw("line", { class: "cursor", x1: x(state.cursor), x2: x(state.cursor), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    }
  };

  const nearest = (line) => {
    let best = null;
    line.values.forEach((value, number) => {
      if (value === null) return;
      const distance = state.cursor === null ? -number : Math.abs(line.steps[number] - state.cursor);
      if (best === null || distance < best.distance) best = { distance, value, step: line.steps[number] };
    });
    return best;
  };

  const drawLegend = () => {
    const lines = series();
    legend.replaceChildren(
      ...lines.map((line) => {
        const at = nearest(line);
        const toggle = () => {
          if (!state.hidden.delete(line.run)) state.hidden.add(line.run);
          redraw();
          legend.querySelector(`[data-run="${CSS.escape(line.run)}"]`).focus();
        };
        const text = at ? ` ${report.number(at.value)} at ${Math.round(at.step).toLocaleString("en")}` : " no values";
        const pressed = String(!state.hidden.has(line.run));
        return make(
          "li",
          {},
          make("button", { type: "button", "aria-pressed": pressed, "data-run": line.run, onclick: toggle }, report.swatch(line.run), line.run, make("span", { class: "quiet" }, text)),
        );
      }),
    );
    const [thinned, dropped] = [Math.max(...lines.map((line) => line.perPoint)), lines.reduce((sum, line) => sum + line.dropped, 0)];
    remark.textContent = [
      "Choose a run below the chart to hide it; point at the chart, or focus it and use the arrow keys, to read values.",
      thinned > 1 ? `Long records are thinned: a point is the mean of up to ${thinned} logged values.` : "",
      dropped ? `${dropped} values are not finite${state.log ? " or not positive" : ""} and left out.` : "",
    ].join(" ");
  };

  const redraw = () => {
    drawChart();
    drawLegend();
  };

  const moveCursor = (step) => {
    state.cursor = step;
    redraw();
  };

  if (!runs.length) {
    body.append(report.notice(["No curves: no run has a record of scalars (scalars.jsonl) that can be read."]));
  } else {
    const factor = make("output", {}, "0");
    const slider = make("input", {
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: "0",
      oninput: (event) => {
        state.smoothing = Number(event.target.value);
        factor.textContent = event.target.value;
        redraw();
      },
    });
    body.append(
      make(
        "div",
        { class: "bar" },
        report.choice("Scalar", names.map((name) => [name, counts.get(name) > 1 ? `${name} (${counts.get(name)} runs)` : name]), (name) => ((state.scalar = name), moveCursor(null)), state.scalar),
        report.switch("logarithmic", state.log, (on) => ((state.log = on), redraw())),
        make("label", { class: "beside" }, "smoothing", slider, factor),
      ),
      chart,
      legend,
      remark,
    );
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const share = (((event.clientX - box.left) / box.width) * geometry.width - MARGIN.left) / (geometry.width - MARGIN.left - MARGIN.right);
      moveCursor(geometry.first + Math.min(1, Math.max(0, share)) * (geometry.last - geometry.first));
    });
    chart.addEventListener("pointerleave", () => moveCursor(null));
    chart.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      const from = state.cursor ?? (direction > 0 ? geometry.first : geometry.last);
      const to = from + (direction * (geometry.last - geometry.first)) / 50;
      moveCursor(Math.min(geometry.last, Math.max(geometry.first, to)));
    });
    new ResizeObserver(() => drawChart()).observe(body);
    redraw();
  }
}
