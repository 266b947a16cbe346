"use strict";
// The baseline that the others are held against. Without script it is the first run.
const picker = document.getElementById("baseline");
if (picker) {
  const parts = [...document.querySelectorAll("[data-baseline]")];
  const show = () => { for (const part of parts) part.hidden = part.dataset.baseline !== picker.value; };
  picker.addEventListener("change", show);
  picker.closest("p").hidden = false;
  show();
}
