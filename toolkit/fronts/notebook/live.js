// The live view of a job. Python sends all that there is once, and then what has changed; this draws it. What has ended
// is drawn by Python (views/html.py), and shown here as it came.

const WIDTH = 860, LABEL = 104, RIGHT = 12, TOP = 22, AXIS = 20;
const ORDER = ["done", "waits", "moves", "runs", "succeeds", "fails"];
const SIGNS = { failure: "✗", bell: "◆", lost: "☠", signal: "!", from_above: "↓", from_below: "↑" };
const COLUMNS = ["rank", "host", "state", "incarnation", "pid", "step", "CPU", "memory", "last"];
const STEPS = [0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800];
const RANK = 0, STATE = 2, INCARNATION = 3, CPU = 6, LAST = 8;
const BUSY = "asked; the kernel is busy with a cell, and will hear of it after that. `await job` lets it listen meanwhile.";
const GONE = "The kernel that watched it has ended: this is what was last known. attach(…) finds a job that goes on, and tells how it ended.";
const SVG = "http://www.w3.org/2000/svg";

function made(tag, look, words) {
  const node = document.createElement(tag);
  if (look) node.className = look;
  if (words !== undefined) node.textContent = words;
  return node;
}

function drawn(tag, values, words) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  if (words !== undefined) node.textContent = words;
  return node;
}

function since(seconds) {
  if (seconds < 60) return `+${seconds % 1 >= 0.05 ? seconds.toFixed(1) : Math.round(seconds)}s`;
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (seconds < 3600) return `+${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
  return `+${Math.floor(seconds / 3600)}:${two((seconds % 3600) / 60)}:${two(seconds % 60)}`;
}

/** Everything that is known, and how messages change it. */
class Known {
  constructor() {
    this.all = null;
    this.came = 0;
  }

  take(message) {
    this.came = performance.now();
    if (message.kind === "all") {
      this.all = message;
      return true;
    }
    if (this.all === null) return false;
    const all = this.all;
    for (const name of ["now", "head", "bands", "failures", "notes"]) {
      if (message[name] !== undefined) all[name] = message[name];
    }
    for (const [columns, values] of message.rows ?? []) {
      for (let at = 0; at < values.length; at += columns.length + 1) {
        columns.forEach((column, nth) => { all.rows[values[at]][column] = values[at + nth + 1]; });
      }
    }
    for (const [place, lane] of message.lanes ?? []) all.lanes[place] = lane;
    return message.rows !== undefined || message.head !== undefined;
  }

  /** Milliseconds since the start of the run; goes on between messages if the job does. */
  now() {
    return this.all.now + (this.all.runs ? performance.now() - this.came : 0);
  }
}

function timeline(all, now) {
  const lanes = all.lanes, LANE = lanes.length > 16 ? 12 : 18, bottom = TOP + LANE * lanes.length, width = WIDTH - LABEL - RIGHT;
  const length = Math.max(now, 1), x = (ms) => LABEL + (Math.min(Math.max(ms, 0), length) / length) * width;
  const height = bottom + AXIS + (all.more ? 16 : 0);
  const picture = drawn("svg", { class: LANE === 12 ? "rally-timeline rally-thin" : "rally-timeline", viewBox: `0 0 ${WIDTH} ${height}`, width: "100%", role: "img",
    style: `max-width:${WIDTH}px`, "aria-label": `timeline of ${all.name}` });
  for (const [number, first, last] of all.bands) {
    const left = x(first), right = x(last === null ? now : last);
    picture.append(drawn("rect", { class: number % 2 ? "rally-odd" : "rally-even", x: left, y: TOP, height: bottom - TOP,
      width: Math.max(right - left, 0) }));
    if (right - left > 14) picture.append(drawn("text", { class: "rally-dim", x: left + 3, y: TOP - 7 },
      right - left > 56 ? `round ${number}` : String(number)));
  }
  const step = STEPS.find((each) => length / 1000 / each <= 9) ?? STEPS.at(-1);
  for (let at = 0; at * 1000 <= length; at += step) {
    picture.append(drawn("path", { class: "rally-grid", d: `M${x(at * 1000).toFixed(1)} ${TOP}V${bottom + 3}` }));
    picture.append(drawn("text", { class: "rally-dim", x: x(at * 1000), y: bottom + 15, "text-anchor": "middle" }, since(at)));
  }
  const paths = Object.fromEntries(ORDER.map((phase) => [phase, ""])), above = [];
  lanes.forEach(([label, about, stretches, marks], place) => {
    const middle = TOP + place * LANE + LANE / 2;
    for (const [start, end, phase] of stretches) {
      const left = x(start);
      paths[phase] += `M${left.toFixed(1)} ${middle}h${Math.max(x(end === null ? now : end) - left, 0.5).toFixed(1)}`;
    }
    const name = drawn("text", { class: "rally-label", x: LABEL - 6, y: middle + 4, "text-anchor": "end" }, label);
    name.append(drawn("title", {}, about));
    above.push(name);
    for (const [at, kind, words] of marks) {
      const sign = drawn("text", { class: `rally-mark rally-${kind}`, x: x(at), y: middle + 4, "text-anchor": "middle" }, SIGNS[kind]);
      sign.append(drawn("title", {}, words));
      above.push(sign);
    }
  });
  for (const phase of ORDER) if (paths[phase]) picture.append(drawn("path", { class: `rally-${phase}`, d: paths[phase] }));
  picture.append(...above);
  if (all.more) picture.append(drawn("text", { class: "rally-dim", x: LABEL, y: height - 4 }, all.more));
  return picture;
}

function badge([name, look, sign]) {
  return made("span", `rally-state ${look}`, `${sign} ${name}`);
}

/** Which ranks have a line: all of a few; of many those that are not as they should be come first. */
function shown(all) {
  const places = all.rows.map((_, place) => place);
  if (places.length <= all.rows_max) return places;
  return places.sort((a, b) => all.rows[a][STATE] - all.rows[b][STATE] || a - b).slice(0, all.rows_max);
}

function render({ model, el }) {
  const known = new Known();
  const root = made("div", "rally rally-live");
  const style = made("style", "", model.get("_style"));
  const head = made("div", "rally-head"), summary = made("span", "rally-head"), buttons = made("span", "rally-buttons"), ask = made("div", "rally-ask");
  const notes = made("div"), picture = made("div"), failures = made("div"), ranks = made("div");
  const sum = made("div", "rally-note"), told = made("div", "rally-note");
  root.append(style, head, ask, notes, picture, failures, ranks, told);
  el.append(root);

  function order(words, message) {
    const yes = made("button", "rally-button rally-danger", words.yes), no = made("button", "rally-button", "Cancel");
    yes.onclick = () => {
      ask.replaceChildren();
      told.textContent = "asked …";
      setTimeout(() => { if (told.textContent === "asked …") told.textContent = BUSY; }, 2000);
      model.send(message);
    };
    no.onclick = () => ask.replaceChildren();
    ask.replaceChildren(made("span", "", `${words.what} `), no, yes);
    no.focus();
  }

  function button(label, words, message) {
    const node = made("button", "rally-button", label);
    node.onclick = () => order(words(), message());
    return node;
  }

  const restart = button("Restart", () => ({ what: `Stop and start all workers of ${known.all.name}? The budget is not spent.`,
    yes: "Restart" }), () => ({ act: "restart" }));
  const stop = button("Stop", () => ({ what: `End ${known.all.name} for all nodes?`, yes: "Stop the job" }), () => ({ act: "stop" }));
  buttons.append(restart, stop);
  head.append(summary, buttons);

  function draw_head() {
    const all = known.all;
    summary.replaceChildren(badge(all.head.badge), " ", made("span", "rally-name", all.name), " ",
      made("span", "rally-facts", [...all.head.facts, all.mode].filter(Boolean).join(" · ")));
    buttons.hidden = !all.acts;
    notes.replaceChildren(...(all.notes ?? []).map((note) => made("div", "rally-note", note)));
    failures.innerHTML = all.failures; // made and escaped by views/html.py
  }

  // Rows and buttons stay the elements that they are: a click on one that was replaced meanwhile would be lost.
  const table = made("table", "rally-table"), titles = made("tr"), top = made("thead"), body = made("tbody");
  const names = COLUMNS.map((name) => made("th", "", name)), lines = new Map();
  // The buttons stand before what is as long as it likes, so that none of them moves.
  titles.append(...names.slice(0, LAST), made("th"), names[LAST]);
  top.append(titles);
  table.append(top, body);
  ranks.append(table, sum);

  function line_of(place) {
    if (!lines.has(place)) {
      const line = made("tr"), cells = COLUMNS.map(() => made("td")), last = made("td");
      const kill = made("button", "rally-button rally-kill", "kill");
      kill.onclick = () => {
        const row = known.all.rows[place];
        order({ what: `SIGKILL to rank ${row[RANK]}, incarnation ${row[INCARNATION]}?`, yes: "Kill" },
          { act: "kill", rank: row[RANK], incarnation: row[INCARNATION] });
      };
      last.append(kill);
      line.append(...cells.slice(0, LAST), last, cells[LAST]);
      lines.set(place, { line, cells, kill });
    }
    return lines.get(place);
  }

  function draw_line(place, told_of) {
    const all = known.all, row = all.rows[place], { line, cells, kill } = line_of(place);
    cells.forEach((cell, column) => {
      const value = row[column];
      cell.hidden = !told_of[column];
      if (cell.told === value) return;
      cell.told = value;
      if (column === STATE) cell.replaceChildren(badge(all.states[value]));
      else cell.textContent = column === CPU && value !== null ? `${value} %` : value ?? "";
      cell.className = typeof value === "number" && column !== STATE && column !== CPU ? "rally-number" : "";
    });
    kill.hidden = !all.acts || all.states[row[STATE]][0] !== "running";
    return line;
  }

  function draw_ranks() {
    const all = known.all;
    const told_of = COLUMNS.map((_, column) => all.rows.some((row) => row[column] !== "" && row[column] !== null));
    names.forEach((name, column) => { name.hidden = !told_of[column]; });
    const now = shown(all).map((place) => draw_line(place, told_of));
    if (now.length !== body.children.length || now.some((line, at) => body.children[at] !== line)) body.replaceChildren(...now);
    table.hidden = !all.rows.length;
    const counts = new Map();
    for (const row of all.rows) counts.set(row[STATE], (counts.get(row[STATE]) ?? 0) + 1);
    const sums = [...counts].map(([state, count]) => `${count} ${all.states[state][0]}`).join(", ");
    sum.textContent = all.rows.length > all.rows_max ? `${all.rows.length} ranks: ${sums}` : "";
  }

  function draw_picture() {
    if (known.all !== null && known.all.lanes.length) picture.replaceChildren(timeline(known.all, known.now()));
  }

  function freeze() {
    if (!model.get("_frozen")) return;
    clearInterval(clock);
    el.innerHTML = model.get("_frozen"); // made and escaped by views/html.py
  }

  // The page goes on drawing when the kernel has restarted, and would show as running what has ended with it.
  function gone() {
    if (known.all === null || model.get("_frozen")) return;
    known.all.runs = known.all.acts = false;
    known.all.mode = "";
    known.all.head.badge = ["not watched any more", "rally-warn", "■"];
    known.all.notes = [GONE];
    ask.replaceChildren();
    told.textContent = "";
    draw_head();
    draw_ranks();
  }

  function take(message) {
    if (message.kind === "told") { told.textContent = message.words; return; }
    const table = known.take(message);
    if (known.all === null) return;
    draw_head();
    draw_picture();
    if (table) draw_ranks();
  }

  const clock = setInterval(() => { if (document.contains(el) && known.all?.runs) draw_picture(); }, 500);
  model.on("msg:custom", take);
  model.on("change:_frozen", freeze);
  model.on("comm_live_update", gone);
  take(model.get("_all"));
  freeze();
  const place = String(Math.random()); // not of `crypto`, which pages without TLS don't have
  model.send({ act: "all", place });
  return () => {
    clearInterval(clock);
    model.off("msg:custom", take);
    model.off("change:_frozen", freeze);
    model.off("comm_live_update", gone);
    try { model.send({ act: "left", place }); } catch { /* there is no kernel any more to be told */ }
  };
}

export default { render };
