// The page's data, its tables of runs and of scores, and the comparison of configurations.
"use strict";

const report = { content: JSON.parse(document.getElementById("content").textContent) };

// `make("p", {class: "quiet"}, "text", child)`: an element; properties beginning with "on" are listeners.
report.make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

report.colourOf = (run) => `var(--run-${Math.max(0, report.content.runs.findIndex((other) => other.name === run)) % 8})`;

report.swatch = (run) => report.make("span", { class: "swatch", style: `--own: ${report.colourOf(run)}`, "aria-hidden": "true" });

report.number = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "not finite";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
};

let choices = 0;
report.choice = (title, options, listener, chosen) => {
  const id = `choice-${choices++}`;
  const select = report.make("select", { id, onchange: (event) => listener(event.target.value) });
  for (const [value, text] of options) select.append(report.make("option", { value, selected: value === chosen }, text));
  return report.make("div", { class: "field" }, report.make("label", { for: id }, title), select);
};

report.switch = (title, checked, listener) =>
  report.make(
    "label",
    { class: "beside" },
    report.make("input", { type: "checkbox", checked, onchange: (event) => listener(event.target.checked) }),
    title,
  );

report.notice = (sentences, kind = "") =>
  sentences.length === 1
    ? report.make("p", { class: `notice ${kind}` }, sentences[0])
    : report.make(
        "div",
        { class: `notice ${kind}` },
        report.make("ul", {}, ...sentences.map((sentence) => report.make("li", {}, sentence))),
      );

report.scrolling = (name, table) => report.make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, table);

{
  const { make, content } = report;

  // Runs

  const drawRuns = () => {
    const body = document.getElementById("runs-body");
    if (content.notes.errors.length) body.append(report.notice(content.notes.errors, "error"));
    if (!content.runs.length) return;
    const heads = ["Run", "Model", "Paper", "Trained on", "Steps", "Seed", "Commit"];
    const rows = content.runs.map((run) =>
      make(
        "tr",
        {},
        make(
          "td",
          { class: "name" },
          report.swatch(run.name),
          run.name,
          make("div", { class: "quiet path" }, run.path),
          ...run.missing.map((sentence) => make("div", { class: "quiet" }, sentence)),
        ),
        make("td", {}, run.model ?? ""),
        make("td", {}, run.record.paper),
        make("td", { class: "value" }, run.data),
        make("td", { class: "number" }, run.steps === null ? "" : run.steps.toLocaleString("en")),
        make("td", { class: "number" }, String(run.record.seed)),
        make("td", { class: "value" }, (run.record.commit || "").slice(0, 7) + (run.record.commit?.endsWith("+") ? "+" : "")),
      ),
    );
    const numeric = new Set(["Steps", "Seed"]);
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", class: numeric.has(text) ? "number" : "" }, text)));
    body.append(report.scrolling("Runs", make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
  };

  // Leaderboard

  const describedScore = (name) => content.scores[name] ?? { title: name, better: 0 }; // 1: more is better, -1: less is
  const meanOf = (score) => (score === null || score === undefined ? null : typeof score === "number" ? score : score.mean);
  const rounded = (value, like = value) => value.toFixed(Math.abs(like) >= 100 ? 1 : Math.abs(like) >= 10 ? 2 : Math.abs(like) >= 0.1 ? 3 : 4);
  const scoreText = (score) => {
    const mean = meanOf(score);
    if (!Number.isFinite(mean)) return "";
    return rounded(mean) + (Number.isFinite(score.std) ? ` \u00b1 ${rounded(score.std, mean)}` : "");
  };
  const intervalText = (score) =>
    Number.isFinite(score?.low) && Number.isFinite(score?.high)
      ? `${rounded(score.low, score.mean)} to ${rounded(score.high, score.mean)}`
      : null;

  const MAIN_SCORES = ["fg_ari", "ari", "miou", "mbo", "mse", "psnr"];
  const board = { data: content.results[0]?.data ?? "", allScores: false, column: null, descending: false };
  const firstScore = Object.keys(content.scores).find((name) => content.results.some((result) => result.scores[name]));
  if (firstScore) Object.assign(board, { column: `score ${firstScore}`, descending: describedScore(firstScore).better > 0 });

  const sampledText = (result) =>
    [
      result.protocol?.split,
      result.protocol?.frames ? `${result.protocol.frames} frames` : null,
      result.num_samples ? `${result.num_samples.toLocaleString("en")} samples` : null,
    ]
      .filter(Boolean)
      .join(", ");
  const conditions = (result) => [result.data, sampledText(result)].filter(Boolean).join(": "); // what makes results comparable

  const columnsOf = (results) => {
    const place = (name) => (Object.keys(content.scores).indexOf(name) + 1 || Infinity);
    const found = [...new Set(results.flatMap((result) => Object.keys(result.scores)))];
    const main = found.filter((name) => MAIN_SCORES.includes(name));
    const names = (board.allScores || !main.length ? found : main).sort((a, b) => place(a) - place(b));
    return [
      { key: "run", title: "Run", value: (result) => result.name, numeric: false },
      { key: "model", title: "Model", value: (result) => result.model ?? "", numeric: false },
      ...names.map((name) => {
        const { title, better } = describedScore(name);
        const arrow = better > 0 ? " \u2191" : better < 0 ? " \u2193" : "";
        return { key: `score ${name}`, score: name, title: title + arrow, value: (result) => meanOf(result.scores[name]), numeric: true, better };
      }),
      ...(new Set(results.map(conditions)).size > 1 ? [{ key: "data", title: "Data", value: (result) => result.data, numeric: false }] : []),
      { key: "paper", title: "Paper", value: (result) => result.paper ?? "", numeric: false },
      { key: "steps", title: "Steps", value: (result) => result.steps, numeric: true, better: 0 },
    ];
  };

  const compare = (column) => (left, right) => {
    const [a, b] = [column.value(left), column.value(right)];
    const [lacksA, lacksB] = [a, b].map((value) => value === null || value === undefined);
    if (lacksA || lacksB) return lacksA - lacksB; // runs without the score stand last, either way
    const order = column.numeric ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return board.descending ? -order : order;
  };

  const drawBoard = () => {
    const body = document.getElementById("leaderboard-body");
    body.replaceChildren();
    if (content.notes.results.length) body.append(report.notice(content.notes.results));
    if (!content.results.length) return;
    const sets = [...new Set(content.results.map((result) => result.data))].sort();
    const chosen = content.results.filter((result) => !board.data || result.data === board.data);
    const shown = chosen.filter((result) => !result.not_applicable);
    const refused = chosen.filter((result) => result.not_applicable);
    const columns = columnsOf(shown);
    const sorted = columns.find((column) => column.key === board.column);
    if (sorted) shown.sort(compare(sorted));
    const best = new Map(); // of every score among the shown results of one data set
    for (const column of columns.filter((column) => column.better)) {
      for (const result of shown) {
        const [key, value] = [`${column.key} ${conditions(result)}`, column.value(result)];
        if (!Number.isFinite(value)) continue;
        const held = best.get(key);
        if (held === undefined || column.better * (value - held) > 0) best.set(key, value);
      }
    }
    const sortBy = (column) => {
      const again = board.column === column.key;
      board.descending = again ? !board.descending : column.numeric && column.better >= 0;
      board.column = column.key;
      drawBoard();
      body.querySelector(`button[data-column="${CSS.escape(column.key)}"]`)?.focus({ preventScroll: true });
    };
    const head = columns.map((column) => {
      const order = board.column === column.key ? (board.descending ? "descending" : "ascending") : null;
      const button = make("button", { type: "button", "data-column": column.key, onclick: () => sortBy(column) }, column.title);
      return make("th", { scope: "col", class: column.numeric ? "number" : "", "aria-sort": order }, button);
    });
    const rows = shown.map((result) =>
      make(
        "tr",
        {},
        ...columns.map((column) => {
          if (column.key === "run") return make("td", { class: "name" }, result.known ? report.swatch(result.name) : null, result.name);
          if (column.key === "data") return make("td", { class: "data" }, make("code", {}, result.data), make("div", { class: "quiet" }, sampledText(result)));
          if (column.key === "steps") return make("td", { class: "number" }, result.steps?.toLocaleString("en") ?? "");
          if (!column.numeric) return make("td", {}, String(column.value(result)));
          const value = column.value(result);
          const isBest = Number.isFinite(value) && best.get(`${column.key} ${conditions(result)}`) === value;
          const interval = intervalText(result.scores[column.score]);
          return make(
            "td",
            { class: isBest ? "number best" : "number" },
            scoreText(result.scores[column.score]),
            interval && make("div", { class: "quiet" }, interval),
          );
        }),
      ),
    );
    const filter = report.choice("Data set", [["", "all"], ...sets.map((set) => [set, set])], (set) => {
      board.data = set;
      drawBoard();
      body.querySelector("select").focus();
    }, board.data);
    const scores = report.switch("all scores", board.allScores, (on) => {
      board.allScores = on;
      drawBoard();
      body.querySelector("input").focus();
    });
    body.append(
      make("div", { class: "bar" }, filter, scores),
      columns.some((column) => column.key === "data") || !shown.length
        ? ""
        : make("p", { class: "quiet" }, `All on ${conditions(shown[0])}.`),
      report.scrolling("Leaderboard", make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))),
      make(
        "p",
        { class: "quiet" },
        "Choose a column to sort by it. Mean \u00b1 standard deviation over samples, below it the 95 % interval of the mean. ",
        "Bold: best on the same samples. The protocol stands in the file of the results.",
      ),
      refused.length ? report.notice(refused.map((result) => `${result.name} on ${result.data}: ${result.not_applicable}.`)) : "",
    );
  };

  // Configurations

  const flattened = (value, path = "", into = new Map()) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
      for (const [key, entry] of Object.entries(value)) flattened(entry, path ? `${path}.${key}` : key, into);
    } else into.set(path, JSON.stringify(value));
    return into;
  };

  const pair = { left: content.runs[0]?.name, right: (content.runs[1] ?? content.runs[0])?.name, onlyDifferences: true };

  const drawComparison = () => {
    const place = document.getElementById("compared");
    const [left, right] = [pair.left, pair.right].map((name) => flattened(content.runs.find((run) => run.name === name).record));
    const keys = [...new Set([...left.keys(), ...right.keys()])];
    const differing = keys.filter((key) => left.get(key) !== right.get(key));
    const rows = (pair.onlyDifferences ? differing : keys).map((key) =>
      make(
        "tr",
        { class: left.get(key) === right.get(key) ? "" : "differs" },
        make("td", { class: "value" }, key),
        ...[left, right].map((side) => make("td", { class: "value" }, side.get(key) ?? "(absent)")),
      ),
    );
    const head = ["Key", pair.left, pair.right].map((text) => make("th", { scope: "col" }, text));
    place.replaceChildren(
      make("p", { class: "quiet", role: "status" }, `${differing.length} of ${keys.length} keys differ.`),
      rows.length ? make("table", { class: "compared" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)) : "",
    );
  };

  const drawConfigurations = () => {
    const body = document.getElementById("configurations-body");
    if (!content.runs.length) {
      body.append(report.notice(["No run could be read, so that there is nothing to compare."]));
      return;
    }
    const names = content.runs.map((run) => [run.name, run.name]);
    const side = (title, key) => report.choice(title, names, (name) => ((pair[key] = name), drawComparison()), pair[key]);
    body.append(
      make(
        "div",
        { class: "bar" },
        side("Run", "left"),
        side("Beside", "right"),
        report.switch("only what differs", pair.onlyDifferences, (on) => ((pair.onlyDifferences = on), drawComparison())),
      ),
      make("div", { id: "compared" }),
    );
    drawComparison();
  };

  document.getElementById("made").textContent =
    `${content.runs.length} ${content.runs.length === 1 ? "run" : "runs"}. Made by tools/report.py on ${content.made}.`;
  drawRuns();
  drawBoard();
  drawConfigurations();
}
