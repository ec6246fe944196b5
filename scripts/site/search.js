// The search: every word must occur; headings count more than text.
const field = document.getElementById("search");
const results = document.getElementById("results");
const root = document.body.dataset.root;

function score(page, words) {
  const heading = (page.page + " " + page.heading).toLowerCase(), text = page.text.toLowerCase();
  let sum = 0;
  for (const word of words) {
    const points = (heading.includes(word) ? 10 : 0) + Math.min(3, text.split(word).length - 1);
    if (points === 0) return 0;
    sum += points;
  }
  return sum;
}

function excerpt(page, words) {
  const at = Math.max(0, page.text.toLowerCase().indexOf(words[0]) - 40);
  return (at > 0 ? "…" : "") + page.text.slice(at, at + 140) + (page.text.length > at + 140 ? "…" : "");
}

function show() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length === 0 ? [] :
    pages.map((page) => [score(page, words), page]).filter(([points]) => points > 0).sort((a, b) => b[0] - a[0]).slice(0, 12);
  results.replaceChildren(...found.map(([, page]) => {
    const item = document.createElement("li"), link = document.createElement("a"), more = document.createElement("small");
    link.href = root + page.url;
    link.textContent = page.page + (page.heading ? " · " + page.heading : "");
    more.textContent = excerpt(page, words);
    link.append(more);
    item.append(link);
    return item;
  }));
  if (words.length > 0 && found.length === 0) results.textContent = "Nothing found.";
  results.hidden = words.length === 0;
}

field.addEventListener("input", show);
field.form.addEventListener("submit", (event) => {
  event.preventDefault();
  results.querySelector("a")?.click();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
  if (event.key === "Escape") { results.hidden = true; field.blur(); }
});

// On a phone the contents would hide the text.
if (matchMedia("(max-width: 52rem)").matches) document.querySelector("nav details").open = false;
