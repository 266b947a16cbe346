"use strict";
// Filters, sorts and reviews lists, a page at a time. Without script the whole lists are there.
const PAGE = 10;
const lists = {};
const remember = { // a browser may refuse to keep anything for a local file
  get: (key) => { try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; } },
  set: (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* the page works without */ } },
};
const highlight = (roots, words) => {
  if (!globalThis.Highlight) return;
  const ranges = [];
  for (const root of words.length ? roots : []) {
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const text = walk.currentNode.textContent.toLowerCase();
      for (const word of words) for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
        const range = new Range();
        range.setStart(walk.currentNode, at);
        range.setEnd(walk.currentNode, Math.min(at + word.length, walk.currentNode.length));
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
};
for (const controls of document.querySelectorAll("[data-search]")) {
  const name = controls.dataset.search;
  const list = document.getElementById(name);
  const first = [...list.children];
  let entries = first;
  const [input, status, sort] = ["input", "[role=status]", "[data-sort]"].map((selector) => controls.querySelector(selector));
  const selects = [...controls.querySelectorAll("select[data-key]")];
  const more = document.querySelector(`[data-more="${name}"]`);
  const texts = new Map(first.map((entry) => [entry, `${entry.textContent} ${entry.dataset.id || ""}`.toLowerCase()]));
  let room = PAGE;
  const show = (limit = room) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const entry of entries) {
      const fits = selects.every((select) => !select.value || (entry.dataset[select.dataset.key] || "").split("\n").includes(select.value))
        && words.every((word) => texts.get(entry).includes(word));
      found += fits;
      entry.hidden = !fits || found > limit;
    }
    status.textContent = `${Math.min(found, limit)} shown of ${found} found, ${entries.length} in all`;
    more.hidden = found <= limit;
    highlight(entries.filter((entry) => !entry.hidden).flatMap((entry) => [...entry.querySelectorAll(".text")]), words);
  };
  const filter = () => { room = PAGE; show(); };
  const choose = (wanted) => {
    input.value = "";
    for (const select of selects) select.value = wanted[select.dataset.key] || "";
    filter();
  };
  input.addEventListener("input", filter);
  for (const select of selects) select.addEventListener("change", filter);
  sort?.addEventListener("change", () => {
    const key = sort.value.replace("-", "");
    const sign = sort.value.startsWith("-") ? -1 : 1;
    entries = key ? [...first].sort((a, b) => sign * (a.dataset[key] - b.dataset[key])) : first;
    list.append(...entries);
    filter();
  });
  more.addEventListener("click", () => {
    const before = entries.filter((entry) => !entry.hidden).length;
    room += 2 * PAGE;
    show();
    const next = entries.filter((entry) => !entry.hidden)[before];
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
  });
  // "Show more" cannot be pressed on paper: what fits the filter is printed.
  addEventListener("beforeprint", () => show(Infinity));
  addEventListener("afterprint", () => show());
  lists[name] = { choose, show: (entry) => { choose({}); room = entries.indexOf(entry) + 1 + PAGE; show(); } };
  controls.hidden = false;
  show();
}
// A link to an entry shows it, whatever is filtered.
const arrive = () => {
  const entry = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const list = entry && lists[entry.parentElement?.id];
  if (list) { list.show(entry); entry.scrollIntoView(); }
};
addEventListener("hashchange", arrive);
arrive();
for (const part of document.querySelectorAll("[data-filter]")) {
  part.addEventListener("click", () => {
    const { filter, filterKey, filterValue } = part.dataset;
    lists["pair-list"]?.choose({ category: filter, ...(filterKey ? { [filterKey]: filterValue } : {}) });
    document.getElementById("pairs")?.scrollIntoView();
  });
}
for (const button of document.querySelectorAll("[data-reveal]")) {
  button.addEventListener("click", () => {
    for (const details of document.querySelectorAll(`#${button.dataset.reveal} details.redacted`)) details.open = true;
  });
}
// Review: accept, overrule or leave open what the judge said; the file is what triage.review_labels reads.
const download = document.querySelector("[data-download]");
if (download) {
  const key = `trace-ray review ${document.documentElement.dataset.run}`;
  const said = remember.get(key);
  const entries = [...document.getElementById(download.dataset.download).children];
  const label = (id, told) => JSON.stringify({ pair_id: id, violates_chosen: told.chosen, violates_rejected: told.rejected, verdict: told.verdict });
  const tell = () => {
    const number = Object.keys(said).length;
    download.disabled = !number;
    download.textContent = number ? `Download review (${number})` : "Download review";
    remember.set(key, said);
  };
  for (const entry of entries) {
    const controls = document.getElementById("review-controls").content.cloneNode(true).firstElementChild;
    const buttons = [...controls.querySelectorAll("[data-say]")];
    const [bits, boxes] = [controls.querySelector(".bits"), [...controls.querySelectorAll("[data-bit]")]];
    const { id, chosen, rejected } = entry.dataset;
    const judged = chosen ? { chosen: chosen === "true", rejected: rejected === "true" } : null;
    buttons[0].disabled = !judged;
    const draw = () => {
      const given = said[id];
      for (const button of buttons) button.setAttribute("aria-pressed", String(given?.verdict === button.dataset.say));
      bits.hidden = given?.verdict !== "overrule";
      if (given?.verdict === "overrule") for (const box of boxes) box.checked = given[box.dataset.bit];
    };
    const say = (verdict) => {
      if (said[id]?.verdict === verdict) delete said[id];
      else if (verdict === "unsure") said[id] = { verdict, chosen: null, rejected: null };
      else if (verdict === "accept") said[id] = { verdict, ...judged };
      else said[id] = { verdict, chosen: judged ? !judged.chosen : true, rejected: judged ? judged.rejected : false };
      draw();
      tell();
    };
    for (const button of buttons) button.addEventListener("click", () => say(button.dataset.say));
    for (const box of boxes) box.addEventListener("change", () => { said[id][box.dataset.bit] = box.checked; tell(); });
    entry.querySelector("article").append(controls);
    draw();
  }
  download.addEventListener("click", () => {
    const lines = Object.entries(said).map(([id, verdict]) => `${label(id, verdict)}\n`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = "review.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  tell();
}
// Paper cannot be clicked: open what is folded, but never what was hidden on purpose.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".tier details:not(.redacted)")) details.open = true;
});
