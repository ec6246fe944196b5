// Figures that everybody may see: none of them names anybody.
const every = 2000, history = 150; // 5 minutes
const points = { connections: [], in: [], out: [] };
let last = null;

const push = (list, v) => { list.push(v); if (list.length > history) list.shift(); };
const svg = (parent, name, kind) => {
  const e = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  e.setAttribute("class", kind);
  return e;
};

// draw shows lines over the last minutes, with the area below each, and the most
// of them in words.
const draw = (id, show, ...lines) => {
  const most = Math.max(1, ...lines.flat()), chart = $(id);
  lines.forEach((line, i) => {
    const kind = i ? "second" : "first";
    const area = chart.querySelector(".area." + kind) || svg(chart, "path", "area " + kind);
    const path = chart.querySelector(".line." + kind) || svg(chart, "path", "line " + kind);
    const x = n => (300 * (n + history - line.length) / (history - 1)).toFixed(1);
    const d = line.map((v, n) => (n ? "L" : "M") + x(n) + " " + (70 - 67 * v / most).toFixed(1)).join("");
    path.setAttribute("d", d);
    area.setAttribute("d", line.length ? d + "L300 72L" + x(0) + " 72Z" : "");
  });
  const minutes = Math.round(history * every / 60000), label = "last " + minutes + " minutes, at most " + show(lines.flat().length ? Math.max(...lines.flat()) : 0);
  text(id + "-label", label);
  chart.setAttribute("aria-label", label);
};

const list = (id, items) => {
  if (!changed(id, items)) return;
  $(id).replaceChildren(...items.map(parts => {
    const li = make("li");
    for (const p of [parts].flat()) li.append(make("span", p));
    return li;
  }));
};

const figures = s => {
  const now = performance.now() / 1000, state = $("state"), good = s.ready && !s.degraded;
  text("state", s.ready ? (s.degraded ? "Ready, degraded" : "Ready") : "Not ready: " + s.reason);
  state.className = "state " + (good ? "good" : s.ready ? "warn" : "bad");
  document.title = (good ? "" : s.ready ? "(degraded) " : "(not ready) ") + "CleverSocks";
  text("age", s.version + " · up " + age(since(s.started)) + " ·");
  if (changed("listeners", s.listeners)) $("listeners").replaceChildren(...s.listeners.flatMap(l => [make("bdi", l), " "]));
  text("connections", count(s.connections));
  text("connections-more", "of " + count(s.limit) + ", " + count(s.accepted) + " accepted");
  push(points.connections, s.connections);
  if (last && s.started === last.status.started) {
    const t = now - last.now, i = (s.bytes_in - last.status.bytes_in) / t, o = (s.bytes_out - last.status.bytes_out) / t;
    push(points.in, i); push(points.out, o);
    text("rate", size(i + o) + "/s");
    text("rate-in", size(i) + "/s from clients");
    text("rate-out", size(o) + "/s to clients");
    text("cost", (100 * (s.cpu_seconds - last.status.cpu_seconds) / t).toFixed(1) + " % of a CPU, " + size(s.memory_bytes));
  }
  last = { now, status: s };
  draw("chart-connections", count, points.connections);
  draw("chart-rate", n => size(n) + "/s", points.in, points.out);
  const refused = Object.entries(s.refused).filter(([, n]) => n).sort((a, b) => b[1] - a[1]).map(([why, n]) => [words(why), count(n)]);
  list("refused", refused.length ? refused : [["none", ""]]);
  const r = s.reload;
  text("reload", r ? (r.ok ? "Reloaded " : "Reload failed ") + new Date(r.time).toLocaleString() + (r.ok ? "" : ": " + r.error) : "Not reloaded since the start");
  $("reload").className = r && !r.ok ? "bad" : "";
  list("degraded", s.degraded || []);
  text("sandbox", "Sandbox: Landlock " + s.sandbox.landlock + ", seccomp " + (s.sandbox.seccomp ? "on" : "off") + (s.sandbox.core_dumps ? ", core dumps possible" : ""));
};
