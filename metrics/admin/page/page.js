"use strict";
// The page asks for figures every two seconds while it is seen, and draws no
// more rows of a long list than are in view.
const every = 2000, rowHeight = 30, history = 150;
const $ = id => document.getElementById(id);
const text = (id, value) => { if ($(id).textContent !== value) $(id).textContent = value; };
const make = (tag, content, attributes = {}) => {
  const e = document.createElement(tag);
  if (content !== undefined) e.textContent = content;
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
};
const size = n => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return (i ? n.toFixed(1) : Math.round(n)) + " " + units[i];
};
const age = s => s < 60 ? Math.floor(s) + "s" : s < 3600 ? Math.floor(s / 60) + "m" + String(Math.floor(s % 60)).padStart(2, "0") + "s"
  : s < 172800 ? Math.floor(s / 3600) + "h" + String(Math.floor(s / 60) % 60).padStart(2, "0") + "m" : Math.floor(s / 86400) + "d";

let token = sessionStorage.getItem("token") || "", wanted = false;
const ask = async (path, method = "GET", send) => {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const answer = await fetch(path, { method, headers, cache: "no-store", body: send && JSON.stringify(send) });
  if (answer.status === 401) { wanted = true; throw new Error("token"); }
  if (answer.status === 204) return null;
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
};

// Figures that everybody may see.
const points = { connections: [], in: [], out: [] };
let last = null;
const draw = (id, ...lines) => {
  const most = Math.max(1, ...lines.flat());
  const svg = $(id);
  lines.forEach((line, i) => {
    const path = svg.children[i] || svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    if (i) path.setAttribute("class", "second");
    path.setAttribute("d", line.map((v, x) => (x ? "L" : "M") + (300 * (x + history - line.length) / (history - 1)).toFixed(1) + " " + (58 - 56 * v / most).toFixed(1)).join(""));
  });
};
const push = (list, v) => { list.push(v); if (list.length > history) list.shift(); };
const list = (id, items) => {
  const key = JSON.stringify(items);
  if ($(id).dataset.key === key) return;
  $(id).dataset.key = key;
  $(id).replaceChildren(...items.map(parts => { const li = make("li"); for (const p of [parts].flat()) li.append(make("span", p)); return li; }));
};
const figures = s => {
  const now = performance.now() / 1000;
  const state = $("state");
  text("state", s.ready ? (s.degraded ? "Ready, degraded" : "Ready") : "Not ready: " + s.reason);
  state.className = "state " + (s.ready && !s.degraded ? "good" : "bad");
  text("sandbox", "Sandbox: Landlock " + s.sandbox.landlock + ", seccomp " + (s.sandbox.seccomp ? "on" : "off") + (s.sandbox.core_dumps ? ", core dumps possible" : ""));
  text("about", s.version + " · up " + age((Date.now() - Date.parse(s.started)) / 1000) + " · " + s.listeners.join(" "));
  text("connections", s.connections.toLocaleString("en"));
  text("connections-more", "of " + s.limit.toLocaleString("en") + ", " + s.accepted.toLocaleString("en") + " accepted");
  push(points.connections, s.connections);
  if (last && s.started === last.status.started) {
    const t = now - last.now, i = (s.bytes_in - last.status.bytes_in) / t, o = (s.bytes_out - last.status.bytes_out) / t;
    push(points.in, i); push(points.out, o);
    text("rate", size(i + o) + "/s");
    text("rate-more", size(i) + "/s from clients, " + size(o) + "/s to clients");
    text("cost", (100 * (s.cpu_seconds - last.status.cpu_seconds) / t).toFixed(1) + " % of a CPU, " + size(s.memory_bytes));
  }
  last = { now, status: s };
  draw("chart-connections", points.connections);
  draw("chart-rate", points.in, points.out);
  const refused = Object.entries(s.refused).sort((a, b) => b[1] - a[1]).map(([why, n]) => [why.replaceAll("_", " "), n.toLocaleString("en")]);
  list("refused", refused.length ? refused : [["none", ""]]);
  const r = s.reload;
  text("reload", r ? (r.ok ? "Reloaded " : "Reload failed ") + new Date(r.time).toLocaleString() + (r.ok ? "" : ": " + r.error) : "Not reloaded since the start");
  $("reload").className = r && !r.ok ? "bad" : "";
  list("degraded", s.degraded || []);
};

// Sessions: all are kept, those in view are drawn.
const columns = [
  ["started", "Age", s => age((Date.now() - Date.parse(s.started)) / 1000)], ["client", "Client", s => s.client + (s.process ? " (process " + s.process + " drains)" : "")], ["user", "User", s => s.user || "–"],
  ["target", "Target", s => s.handshake ? "(handshake)" : (s.target || "–")], ["bytes_in", "In", s => size(s.bytes_in), 1], ["bytes_out", "Out", s => size(s.bytes_out), 1],
  ["rate", "Rate", s => size(s.rate_in + s.rate_out) + "/s", 1],
];
let sessions = [], shown = [], sort = "rate", up = false, paused = false;
for (const [key, name, , number] of columns) {
  const cell = make("div", undefined, { role: "columnheader", "aria-sort": "none", "data-key": key, class: number ? "n" : "" });
  const button = make("button", name, { type: "button" });
  button.onclick = () => { up = sort === key ? !up : !number; sort = key; arrange(); };
  cell.append(button);
  $("columns").append(cell);
}
$("columns").append(make("div", "", { role: "columnheader", "aria-label": "Action" }));
const arrange = () => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = words.length ? sessions.filter(s => words.every(w => (s.client + " " + (s.user || "") + " " + (s.target || "") + " " + s.listener).toLowerCase().includes(w))) : sessions.slice();
  const value = s => sort === "rate" ? s.rate_in + s.rate_out : (s[sort] ?? "");
  shown.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : a.id < b.id ? -1 : 1) * (up ? 1 : -1); });
  for (const c of $("columns").children) if (c.dataset.key) c.setAttribute("aria-sort", c.dataset.key === sort ? (up ? "ascending" : "descending") : "none");
  $("table").setAttribute("aria-rowcount", shown.length + 1);
  text("session-count", shown.length === sessions.length ? sessions.length.toLocaleString("en") : shown.length.toLocaleString("en") + " of " + sessions.length.toLocaleString("en"));
  $("space").style.height = shown.length * rowHeight + "px";
  rows();
};
const rows = () => {
  const box = $("scroll"), first = Math.max(0, Math.floor(box.scrollTop / rowHeight) - 3), count = Math.ceil(box.clientHeight / rowHeight) + 6;
  const part = shown.slice(first, first + count), body = $("rows");
  body.style.transform = "translateY(" + first * rowHeight + "px)";
  while (body.children.length > part.length) body.lastChild.remove();
  part.forEach((s, i) => {
    let row = body.children[i];
    if (!row) {
      row = make("div", undefined, { role: "row", class: "row" });
      for (const [, , , number] of columns) row.append(make("div", "", { role: "cell", class: number ? "n" : "" }));
      const cell = make("div", undefined, { role: "cell" });
      cell.append(make("button", "Close", { type: "button", class: "danger" }));
      row.append(cell);
      body.append(row);
    }
    row.setAttribute("aria-rowindex", first + i + 2);
    row.dataset.id = s.id;
    columns.forEach(([, , show], c) => { const v = show(s), e = row.children[c]; if (e.textContent !== v) { e.textContent = v; e.title = v; } });
    row.lastChild.firstChild.setAttribute("aria-label", "Close the session of " + (s.user || s.client) + " to " + (s.target || "nowhere yet"));
  });
};
$("scroll").addEventListener("scroll", () => requestAnimationFrame(rows), { passive: true });
$("filter").oninput = arrange;
$("pause").onclick = () => { paused = !paused; $("pause").setAttribute("aria-pressed", paused); text("pause", paused ? "Go on" : "Pause"); };
$("rows").onclick = e => {
  const row = e.target.closest("button") && e.target.closest(".row"), s = row && sessions.find(s => s.id === row.dataset.id);
  if (!s) return;
  sure("Close the connection of " + (s.user || s.client) + " to " + (s.target || "nowhere yet") + "?", "Close it", async () => {
    await ask("/api/v1/sessions/" + s.id, "DELETE");
    return "Closed " + s.id + ".";
  });
};

// sure does something once a person has said yes to it.
const sure = (question, yes, run) => {
  text("ask-text", question);
  text("ask-yes", yes);
  $("ask").returnValue = "no";
  $("ask").onclose = async () => {
    if ($("ask").returnValue !== "yes") return;
    try { text("message", await run()); } catch (err) { text("message", "Not done: " + err.message); }
    due = 0;
    refresh();
  };
  $("ask").showModal();
};

const table = (id, lines) => {
  const key = JSON.stringify(lines);
  if ($(id).dataset.key === key) return;
  $(id).dataset.key = key;
  $(id).replaceChildren(...lines.map(cells => { const tr = make("tr"); cells.forEach(([v, c, press, label]) => {
    const td = make("td", press ? undefined : v, c ? { class: c } : {});
    if (press) { const b = make("button", v, { type: "button", "aria-label": label }); b.onclick = press; td.append(b); }
    tr.append(td);
  }); return tr; }));
};
// turn disables a user, which ends the user's connections, or takes that back.
const turn = u => sure(u.disabled ? "Let " + u.name + " in again?" : "Disable " + u.name + " and end " + u.connections + " connections?", u.disabled ? "Enable" : "Disable", async () => {
  const done = await ask("/api/v1/users/" + encodeURIComponent(u.name), "PATCH", { disabled: !u.disabled });
  return (u.disabled ? "Enabled " : "Disabled ") + u.name + ". " + done.closed + " connections ended.";
});
const people = (users, upstreams, denials, bans, fleet) => {
  const share = u => (u.replicas || []).map(r => r.replica + " " + r.connections).join(", ");
  table("users", users.slice(0, 500).map(u => [[u.name], [u.state.replaceAll("_", " "), u.state === "ok" ? "" : "bad"], [(u.fleet_connections ?? u.connections) + (u.max_connections ? "/" + u.max_connections : "") + (share(u) ? " (" + share(u) + ")" : ""), "n"], [size(u.bytes_in + u.bytes_out), "n"], [u.quota ? size(u.quota.remaining) : "–", "n"], u.in_file ? [u.disabled ? "Enable" : "Disable", "n", () => turn(u), (u.disabled ? "Enable" : "Disable") + " " + u.name] : [""]]));
  table("upstreams", upstreams.flatMap(u => u.members.map(m => [[u.name + " " + m.name], [m.drained ? "drained" : m.up ? "up" : "down", m.up && !m.drained ? "good" : "bad"], [m.active, "n"], [m.latency_seconds ? (m.latency_seconds * 1000).toFixed(1) + " ms" : "–", "n"]])));
  table("bans", bans.slice(0, 500).map(b => [[b.source], [age((Date.parse(b.until) - Date.now()) / 1000), "n"], [b.level, "n"], [b.replica || "–"]]));
  $("bans-card").hidden = !bans.length;
  table("fleet", fleet.replicas.map(r => [[r.name + (r.self ? " (this one)" : "")], [r.draining ? "draining" : "serving", r.draining ? "bad" : "good"], [r.connections.toLocaleString("en"), "n"], [age((Date.now() - Date.parse(r.started)) / 1000), "n"], [r.version || "–"]]));
  $("fleet-card").hidden = !fleet.replica;
  const key = denials.length ? denials[0].time + denials.length : "none";
  if ($("denials").dataset.key === key) return;
  $("denials").dataset.key = key;
  $("denials").replaceChildren(...(denials.length ? denials.slice(0, 50).map(d => {
    const li = make("li"), more = make("details");
    li.append(make("span", new Date(d.time).toLocaleTimeString() + "  ", { class: "quiet" }), make("span", d.sentence));
    more.append(make("summary", "What would allow it"), make("pre", d.allow));
    li.append(more);
    return li;
  }) : [make("li", "None", { class: "quiet" })]));
};

let busy = false, due = 0; // many sessions are asked for less often
const refresh = async () => {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const s = await (await fetch("/status", { cache: "no-store" })).json();
    figures(s);
    if (s.api && !wanted) {
      if (!paused && performance.now() >= due) {
        const [page, users, upstreams, denials, bans, fleet] = await Promise.all(["sessions", "users", "upstreams", "denials", "bans", "fleet"].map(what => ask("/api/v1/" + what)));
        $("private").hidden = false; $("login").hidden = true;
        due = performance.now() + every * Math.min(5, Math.floor(page.total / 2000)) - every / 2;
        sessions = page.sessions; arrange(); people(users, upstreams, denials, bans, fleet);
      }
    }
    $("login").hidden = !wanted;
  } catch (err) {
    if (err.message !== "token") { text("state", "No answer: " + err.message); $("state").className = "state bad"; }
    $("login").hidden = !wanted;
    if (wanted) { $("private").hidden = true; text("login-error", token ? "That is not the token." : ""); }
  } finally { busy = false; }
};
$("login").onsubmit = e => {
  e.preventDefault();
  token = $("token").value.trim(); wanted = false; due = 0;
  sessionStorage.setItem("token", token);
  refresh();
};
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, every);
refresh();
