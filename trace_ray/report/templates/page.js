"use strict";
// Filters a list by words and category and shows it a page at a time. Without script the whole list is there.
const PAGE = 10;
for (const controls of document.querySelectorAll("[data-search]")) {
  const name = controls.dataset.search;
  const entries = [...document.getElementById(name).children];
  const [input, select, status] = ["input", "select", "[role=status]"].map((one) => controls.querySelector(one));
  const more = document.querySelector(`[data-more="${name}"]`);
  const texts = entries.map((entry) => `${entry.textContent} ${entry.dataset.id || ""}`.toLowerCase());
  let room = PAGE;
  const show = (limit = room) => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    entries.forEach((entry, i) => {
      const fits = (!select.value || entry.dataset.category === select.value) && words.every((word) => texts[i].includes(word));
      found += fits;
      entry.hidden = !fits || found > limit;
    });
    status.textContent = `${Math.min(found, limit)} shown of ${found} found, ${entries.length} in all`;
    more.hidden = found <= limit;
  };
  const filter = () => { room = PAGE; show(); };
  input.addEventListener("input", filter);
  select.addEventListener("change", filter);
  more.addEventListener("click", () => {
    const first = entries.filter((entry) => !entry.hidden).length;
    room += 2 * PAGE;
    show();
    const next = entries.filter((entry) => !entry.hidden)[first];
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
  });
  // "Show more" cannot be pressed on paper: what fits the filter is printed.
  addEventListener("beforeprint", () => show(Infinity));
  addEventListener("afterprint", () => show());
  controls.hidden = false;
  show();
}
// Paper cannot be clicked: open what is folded, but never what was hidden on purpose.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(.redacted)")) details.open = true;
});
