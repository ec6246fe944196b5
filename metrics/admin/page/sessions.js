// The sessions: all of them are kept, those in view are drawn. It is a grid of
// which one row is chosen, by the arrows or with the mouse.
const most = 20000; // of a list
const columns = [
  ["started", "Age", s => age(since(s.started))],
  ["client", "Client", s => s.client + (s.process ? " (process " + s.process + " drains)" : "")],
  ["user", "User", s => s.user || "–"],
  ["target", "Target", s => s.handshake ? "(handshake)" : s.requests ? "(requests)" : s.target || "–"],
  ["bytes_in", "In", s => size(s.bytes_in), true],
  ["bytes_out", "Out", s => size(s.bytes_out), true],
  ["rate", "Rate", s => s.ended ? "ended" : size(s.rate_in + s.rate_out) + "/s", true],
];
let sessions = [], total = 0, shown = [], sort = "rate", up = false, paused = false, held = false, chosen = "";

const keyOf = s => (s.process || 0) + " " + s.id;
const who = s => (s.user || s.client) + " to " + (s.target || "nowhere yet");

for (const [key, name, , number] of columns) {
  const cell = make("div", undefined, { role: "columnheader", "aria-sort": "none", "data-key": key, class: number ? "n " + key : key });
  const button = make("button", name, { type: "button" });
  button.onclick = () => { up = sort === key ? !up : !number; sort = key; arrange(true); };
  cell.append(button);
  $("columns").append(cell);
}
$("columns").append(make("div", "", { role: "columnheader", "aria-label": "Action", class: "close" }));

// arrange filters and sorts. While somebody points at the list its order holds:
// a row that moved away under the mouse would have another one closed.
const arrange = anyway => {
  if (held && !anyway) {
    const now = new Map(sessions.map(s => [keyOf(s), s]));
    shown = shown.map(s => now.get(keyOf(s)) || { ...s, ended: true });
  } else {
    const wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = s => {
      const all = (s.client + " " + (s.user || "") + " " + (s.target || "") + " " + s.listener).toLowerCase();
      return wanted.every(w => all.includes(w));
    };
    shown = wanted.length ? sessions.filter(fits) : sessions.slice();
    const value = s => sort === "rate" ? s.rate_in + s.rate_out : s[sort] ?? "", way = up ? 1 : -1;
    shown.sort((a, b) => {
      const x = value(a), y = value(b);
      return (x < y ? -1 : x > y ? 1 : a.id < b.id ? -1 : 1) * way;
    });
  }
  for (const c of $("columns").children) if (c.dataset.key) c.setAttribute("aria-sort", c.dataset.key === sort ? (up ? "ascending" : "descending") : "none");
  $("table").setAttribute("aria-rowcount", shown.length + 1);
  text("session-count", (shown.length === sessions.length ? "" : count(shown.length) + " of ") + count(sessions.length) + (total > sessions.length ? ", the busiest of " + count(total) : ""));
  $("none").hidden = shown.length > 0;
  text("none", sessions.length ? "None that match the filter" : "None");
  $("space").style.height = shown.length * rowHeight() + "px";
  rows();
};

const rowHeight = () => parseFloat(getComputedStyle($("table")).getPropertyValue("--row"));

const newRow = () => {
  const row = make("div", undefined, { role: "row", class: "row" });
  for (const [key, , , number] of columns) row.append(make("div", "", { role: "gridcell", class: number ? "n " + key : key }));
  const cell = make("div", undefined, { role: "gridcell", class: "close" });
  cell.append(make("button", "Close", { type: "button", class: "danger", tabindex: "-1" }));
  row.append(cell);
  return row;
};

const rows = () => {
  const box = $("scroll"), height = rowHeight(), body = $("rows");
  const first = Math.max(0, Math.floor(box.scrollTop / height) - 3), part = shown.slice(first, first + Math.ceil(box.clientHeight / height) + 6);
  body.style.transform = "translateY(" + first * height + "px)";
  while (body.children.length > part.length) body.lastChild.remove();
  let active = "";
  part.forEach((s, i) => {
    const row = body.children[i] || body.appendChild(newRow()), is = keyOf(s) === chosen;
    row.id = "row-" + i;
    row.dataset.key = keyOf(s);
    row.setAttribute("aria-rowindex", first + i + 2);
    row.setAttribute("aria-selected", is);
    row.classList.toggle("ended", Boolean(s.ended));
    if (is) active = row.id;
    columns.forEach(([, , show], c) => { const v = plain(show(s)), e = row.children[c]; if (e.textContent !== v) { e.textContent = v; e.title = v; } });
    const close = row.lastChild.firstChild;
    close.disabled = Boolean(s.ended);
    close.setAttribute("aria-label", plain("Close the session of " + who(s)));
  });
  if (active) $("table").setAttribute("aria-activedescendant", active); else $("table").removeAttribute("aria-activedescendant");
};

const closeOne = s => sure("Close the connection of " + who(s) + "?", "Close it", async () => {
  await ask("api/v1/sessions/" + encodeURIComponent(s.id), "DELETE");
  return "Closed " + s.id + ".";
});

// details shows all that is known of a session.
const details = s => {
  const lines = [["Session", s.id], ["Client", s.client], ["User", s.user], ["Logged in by", s.auth], ["Listener", s.listener], ["Protocol", s.protocol], ["Command", s.command],
    ["Target", s.target], ["Connected to", s.host_ip], ["From", s.local], ["Upstream", s.upstream], ["Rule", s.rule], ["Since", new Date(s.started).toLocaleString()],
    ["From the client", size(s.bytes_in) + ", " + size(s.rate_in) + "/s"], ["To the client", size(s.bytes_out) + ", " + size(s.rate_out) + "/s"]];
  $("about-one").replaceChildren(...lines.filter(([, v]) => v).flatMap(([k, v]) => [make("dt", k), make("dd", v)]));
  $("one-close").disabled = Boolean(s.ended);
  $("one").onclose = () => { if ($("one").returnValue === "close") closeOne(s); };
  $("one").returnValue = "";
  $("one").showModal();
};

// choose makes a row the chosen one and brings it into view.
const choose = n => {
  if (!shown.length) return;
  n = Math.max(0, Math.min(n, shown.length - 1));
  chosen = keyOf(shown[n]);
  const box = $("scroll"), height = rowHeight();
  if (n * height < box.scrollTop) box.scrollTop = n * height;
  if ((n + 1) * height > box.scrollTop + box.clientHeight) box.scrollTop = (n + 1) * height - box.clientHeight;
  rows();
};

const hold = on => { if (held !== on) { held = on; if (!on) arrange(); } };
$("scroll").addEventListener("scroll", () => requestAnimationFrame(rows), { passive: true });
$("scroll").onmouseenter = () => hold(true);
$("scroll").onmouseleave = () => hold(document.activeElement === $("table"));
$("table").onfocus = () => hold(true);
$("table").onblur = () => hold(false);
$("rows").onclick = e => {
  const row = e.target.closest(".row"), n = row ? shown.findIndex(s => keyOf(s) === row.dataset.key) : -1;
  if (n < 0) return;
  choose(n);
  if (e.target.closest("button")) closeOne(shown[n]); else details(shown[n]);
};
$("table").onkeydown = e => {
  if (e.target !== $("table")) return;
  const at = shown.findIndex(s => keyOf(s) === chosen), page = Math.max(1, Math.floor($("scroll").clientHeight / rowHeight()) - 1);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: shown.length - 1 }[e.key];
  if (to !== undefined) choose(to);
  else if (e.key === "Enter" && at >= 0) details(shown[at]);
  else if (e.key === "Delete" && at >= 0 && !shown[at].ended) closeOne(shown[at]);
  else return;
  e.preventDefault();
};
$("filter").oninput = () => arrange(true);
$("filter").onkeydown = e => { if (e.key === "Escape") { $("filter").value = ""; arrange(true); } };
document.addEventListener("keydown", e => {
  if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, dialog") || $("private").hidden) return;
  e.preventDefault();
  $("filter").focus();
});
$("pause").onclick = () => { paused = !paused; $("pause").setAttribute("aria-pressed", paused); };
new ResizeObserver(() => arrange()).observe($("scroll"));
