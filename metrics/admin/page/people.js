// Users, upstreams, bans, replicas and denials.
const mostUsers = 500;
const table = (id, lines, none) => {
  if (!changed(id, lines)) return;
  const cellOf = ([v, kind, press, label]) => {
    const td = make("td", press ? undefined : v, kind ? { class: kind } : {});
    if (kind === "name") td.title = td.textContent;
    if (press) {
      const b = make("button", v, { type: "button", "aria-label": label });
      b.onclick = press;
      td.append(b);
    }
    return td;
  };
  const body = lines.map(cells => { const tr = make("tr"); tr.append(...cells.map(cellOf)); return tr; });
  if (!body.length && none) {
    const tr = make("tr");
    tr.append(make("td", none, { class: "quiet", colspan: "9" }));
    body.push(tr);
  }
  $(id).replaceChildren(...body);
};

// turn disables a user, which ends the user's connections, or takes that back.
const turn = u => sure(u.disabled ? "Let " + u.name + " in again?" : "Disable " + u.name + " and end " + u.connections + " connections?", u.disabled ? "Enable" : "Disable", async () => {
  const done = await ask("api/v1/users/" + encodeURIComponent(u.name), "PATCH", { disabled: !u.disabled });
  return (u.disabled ? "Enabled " : "Disabled ") + u.name + ". " + done.closed + " connections ended.";
});
const forget = u => sure("Forget that " + u.name + " has used " + size(u.quota.used) + " of " + size(u.quota.limit) + "?", "Forget it", async () => {
  await ask("api/v1/users/" + encodeURIComponent(u.name) + "/usage", "DELETE");
  return "The quota of " + u.name + " begins anew.";
});
const lift = b => sure("Let " + b.source + " in again?", "Lift the ban", async () => {
  await ask("api/v1/bans/" + b.source, "DELETE");
  return "The ban of " + b.source + " is over.";
});
const drain = (u, m) => sure(m.drained ? "Use " + m.name + " again?" : "Have no new tunnels go through " + m.name + "?", m.drained ? "Use it" : "Drain it", async () => {
  await ask("api/v1/upstreams/" + encodeURIComponent(u.name) + "/drain", "PUT", { member: m.name, drained: !m.drained });
  return m.name + (m.drained ? " is used again." : " drains.");
});

const showUsers = users => {
  const share = u => (u.replicas || []).map(r => r.replica + " " + r.connections).join(", ");
  const connections = u => (u.fleet_connections ?? u.connections) + (u.max_connections ? "/" + u.max_connections : "") + (share(u) ? " (" + share(u) + ")" : "");
  table("users", users.map(u => [
    [u.name, "name"], [words(u.state), u.state === "ok" ? "" : "bad"], [connections(u), "n"], [size(u.bytes_in + u.bytes_out), "n"], [u.quota ? size(u.quota.remaining) : "–", "n"],
    u.quota && u.quota.used ? ["Reset", "n", () => forget(u), "Reset the usage of " + u.name] : [""],
    u.in_file ? [u.disabled ? "Enable" : "Disable", "n", () => turn(u), (u.disabled ? "Enable " : "Disable ") + u.name] : [""],
  ]), "None in the settings");
  text("user-count", users.length < mostUsers ? (users.length ? count(users.length) : "") : "the busiest " + count(mostUsers));
};

const showDenials = denials => {
  if (!changed("denials", denials.map(d => [d.id, d.count, d.time]))) return;
  const open = new Set([...$("denials").querySelectorAll("details[open]")].map(e => e.dataset.what));
  $("denials").replaceChildren(...(denials.length ? denials.slice(0, 50).map(d => {
    const li = make("li"), more = make("details"), line = make("p");
    line.append(make("time", new Date(d.time).toLocaleTimeString(), { class: "quiet", datetime: d.time }), make("span", d.reported ? "let pass" : "denied", { class: d.reported ? "mark" : "mark bad" }));
    if (d.count > 1) line.append(make("span", count(d.count) + " times", { class: "mark" }));
    line.append(make("span", d.sentence));
    more.dataset.what = d.sentence;
    more.open = open.has(d.sentence);
    more.append(make("summary", "What would allow it"), make("pre", d.allow));
    li.append(line, more);
    return li;
  }) : [make("li", "None", { class: "quiet" })]));
};

const people = (users, upstreams, denials, bans, fleet) => {
  showUsers(users);
  table("upstreams", upstreams.flatMap(u => u.members.map(m => [
    [u.name + " " + m.name, "name"], [m.drained ? "drained" : m.up ? "up" : "down", m.up && !m.drained ? "good" : "bad"], [m.active, "n"], [m.latency_seconds ? (m.latency_seconds * 1000).toFixed(1) + " ms" : "–", "n"],
    [m.drained ? "Use" : "Drain", "n", () => drain(u, m), (m.drained ? "Use " : "Drain ") + u.name + " " + m.name],
  ])), "None: connections go straight to their targets");
  table("bans", bans.slice(0, 500).map(b => [[b.source], [age(-since(b.until)), "n"], [b.level, "n"], [b.replica || "–"], ["Lift", "n", () => lift(b), "Lift the ban of " + b.source]]));
  $("bans-card").hidden = !bans.length;
  table("fleet", fleet.replicas.map(r => [[r.name + (r.self ? " (this one)" : ""), "name"], [r.draining ? "draining" : "serving", r.draining ? "bad" : "good"], [count(r.connections), "n"], [age(since(r.started)), "n"], [r.version || "–"]]));
  $("fleet-card").hidden = !fleet.replica;
  showDenials(denials);
};
