"use strict";
// Shows the rows of one or two runs. All text of the data is set as text, never as markup.
const runs = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const HEIGHT = 28;
const keyOf = (row) => JSON.stringify([row.sample, row.repeat, row.effort]);
const others = new Map((runs[1]?.rows ?? []).map((row) => [keyOf(row), row]));
const pairs = runs[0].rows.map((row) => ({ row, other: others.get(keyOf(row)) }));
let shown = pairs;
let chosen = null;

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function scoreWord(row) {
  if (row.error) return "error";
  return row.score >= 1 ? "right" : row.score <= 0 ? "wrong" : "between";
}

const number = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(2));

function fill(id, values) {
  for (const value of [...new Set(values)].sort()) at(id).append(new Option(value, value));
}

function passes({ row, other }) {
  const is = (id, value) => !at(id).value || at(id).value === value;
  const words = at("search").value.toLowerCase();
  return (
    is("score", scoreWord(row)) &&
    is("effort", row.effort) &&
    is("finish", row.finish) &&
    (!at("tag").value || row.tags.includes(at("tag").value)) &&
    (!at("diff").checked || (other && other.score !== row.score)) &&
    (!words || `${row.sample} ${row.text ?? ""} ${row.reason}`.toLowerCase().includes(words))
  );
}

function filter() {
  shown = pairs.filter(passes);
  at("count").textContent = `${shown.length} of ${pairs.length}`;
  at("space").style.height = `${shown.length * HEIGHT}px`;
  at("list").scrollTop = 0;
  draw();
}

// Only the rows in sight are elements: ten thousand would be slow.
function draw() {
  const first = Math.max(0, Math.floor(at("list").scrollTop / HEIGHT) - 5);
  const count = Math.ceil(at("list").clientHeight / HEIGHT) + 10;
  at("rows").style.top = `${first * HEIGHT}px`;
  at("rows").replaceChildren(...shown.slice(first, first + count).map(line));
}

function line(pair) {
  const { row, other } = pair;
  const made = element("div", "row");
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", String(pair === chosen));
  made.append(element("b", scoreWord(row), row.error ? "error" : number(row.score)));
  if (runs.length > 1) made.append(element("b", other ? scoreWord(other) : "", other ? number(other.score) : "–"));
  made.append(element("span", "", `${row.sample} · ${row.effort} · ${row.repeat}`));
  made.append(element("span", "answer", row.error || row.text || `(${row.finish})`));
  made.addEventListener("click", () => choose(pair));
  return made;
}

function choose(pair) {
  chosen = pair;
  draw();
  const columns = [transcript(pair.row, runs[0].name)];
  if (runs.length > 1) columns.push(pair.other ? transcript(pair.other, runs[1].name) : element("div", "run", "no such try"));
  at("detail").replaceChildren(...columns);
}

function transcript(row, name) {
  const made = element("div", "run");
  made.append(element("h2", "", `${runs.length > 1 ? name + ": " : ""}${row.sample}`));
  const tokens = `${row.usage.reasoning} tokens of thinking, ${row.usage.output - row.usage.reasoning} of the rest`;
  made.append(element("p", scoreWord(row), `score ${number(row.score)}: ${row.reason}`));
  made.append(element("p", "", `${row.finish}, ${tokens}${row.flaws.length ? ", malformed: " + row.flaws.join(", ") : ""}`));
  if (row.tags.length) made.append(element("p", "", `tags: ${row.tags.join(", ")}`));
  if (row.error) made.append(part("error", row.error, "call"));
  for (const message of row.messages) made.append(...parts(message));
  return made;
}

function parts(message) {
  const made = [];
  const content = typeof message.content === "string" ? message.content : message.content ? JSON.stringify(message.content) : "";
  if (message.role !== "assistant") return [folded(message.role === "tool", part(message.role, content, message.role === "tool" ? "tool" : "user"), message.role)];
  const thought = message.reasoning || message.reasoning_content;
  if (thought) made.push(part("analysis", thought, "analysis"));
  for (const ran of message.executed_tools ?? []) {
    const call = part(`call of ${ran.type}`, `${ran.arguments}\n→ ${ran.output}`, "call");
    made.push(folded(true, call, `call of ${ran.type}`));
  }
  const channel = message.tool_calls?.length ? "commentary" : "final";
  if (content) made.push(part(channel, content, channel));
  for (const call of message.tool_calls ?? []) {
    made.push(folded(true, part(`call of ${call.function.name}`, call.function.arguments, "call"), `call of ${call.function.name}`));
  }
  return made;
}

function part(name, text, className) {
  const made = element("div", `part ${className}`);
  made.append(element("span", "", name), element("pre", "", text));
  return made;
}

function folded(isFolded, inner, title) {
  if (!isFolded) return inner;
  const made = element("details", "fold");
  made.append(element("summary", "", title), inner);
  return made;
}

function begin() {
  const scores = (run) => Object.entries(run.scores).map(([effort, score]) => `${effort} ${score?.toFixed(1) ?? "–"}`).join(", ");
  at("title").textContent = runs.map((run) => `${run.benchmark} · ${run.model} · ${scores(run)}`).join("  against  ");
  fill("effort", pairs.map(({ row }) => row.effort));
  fill("finish", pairs.map(({ row }) => row.finish));
  fill("tag", pairs.flatMap(({ row }) => row.tags));
  at("diff-label").hidden = runs.length < 2;
  at("filters").addEventListener("input", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("thinking").addEventListener("input", () => document.body.classList.toggle("thinking", at("thinking").checked));
  at("list").addEventListener("scroll", draw);
  at("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !shown.length) return;
    event.preventDefault();
    const next = Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen) + step));
    at("list").scrollTop = Math.min(next * HEIGHT, Math.max(at("list").scrollTop, (next + 1) * HEIGHT - at("list").clientHeight));
    choose(shown[next]);
  });
  addEventListener("resize", draw);
  filter();
}

begin();
