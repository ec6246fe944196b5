"use strict";
// What all parts of the page use.
const $ = id => document.getElementById(id);
// plain is a text with the characters spelt out that are not seen themselves, but turn
// what stands beside them around (Unicode Bidirectional Algorithm) or are controls. A
// client's name may have them.
const plain = s => String(s).replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
const text = (id, value) => { value = plain(value); if ($(id).textContent !== value) $(id).textContent = value; };
const make = (tag, content, attributes = {}) => {
  const e = document.createElement(tag);
  if (content !== undefined) e.textContent = plain(content);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
};

const units = ["B", "KiB", "MiB", "GiB", "TiB"];
const size = n => {
  let i = 0;
  for (; n >= 1023.95 && i < units.length - 1; i++) n /= 1024; // less is not written as 1024.0
  return (i ? n.toFixed(1) : Math.round(n)) + " " + units[i];
};
const count = n => n.toLocaleString("en");
const two = n => String(Math.floor(n)).padStart(2, "0");
const age = s => {
  s = Math.max(0, s);
  if (s < 60) return Math.floor(s) + "s";
  if (s < 3600) return Math.floor(s / 60) + "m" + two(s % 60) + "s";
  if (s < 172800) return Math.floor(s / 3600) + "h" + two(s / 60 % 60) + "m";
  return Math.floor(s / 86400) + "d";
};
const since = time => (Date.now() - Date.parse(time)) / 1000;
const words = name => name.replaceAll("_", " ");

// changed says whether an element is to show something else than it does.
const changed = (id, content) => {
  const key = JSON.stringify(content);
  if ($(id).dataset.key === key) return false;
  $(id).dataset.key = key;
  return true;
};

// ask asks the API, below wherever the page is: a reverse proxy may have put it under
// a prefix. The token stays in this tab.
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
