// The page asks every two seconds while it is seen; for a long list less often.
const parts = ["sessions?sort=rate&limit=" + most, "users?sort=connections&limit=" + mostUsers, "upstreams", "denials", "bans", "fleet"];
let busy = false, due = 0, silent = 0;

const look = async () => {
  const answers = [];
  for (const what of parts) answers.push(await ask("api/v1/" + what)); // one connection for each page that is open
  const [page, users, upstreams, denials, bans, fleet] = answers;
  $("private").hidden = false; $("login").hidden = true;
  due = performance.now() + every * Math.min(5, Math.floor(page.total / 5000)) - every / 2;
  sessions = page.sessions; total = page.total;
  arrange();
  people(users, upstreams, denials, bans, fleet);
};

const refresh = async () => {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const s = await (await fetch("status", { cache: "no-store" })).json();
    silent = 0;
    figures(s);
    $("no-api").hidden = s.api;
    if (s.api && !wanted && !paused && performance.now() >= due) await look();
    $("login").hidden = !wanted;
  } catch (err) {
    if (err.message !== "token") {
      silent = silent || Date.now();
      text("state", "No answer for " + age((Date.now() - silent) / 1000) + ": " + err.message);
      $("state").className = "state bad";
      document.title = "(no answer) CleverSocks";
    }
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
