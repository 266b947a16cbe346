"use strict";
// Asks for the state again and again; what was folded open and where one has scrolled to stay as they are.
const main = document.getElementById("live");
const heard = document.getElementById("heard");
const ask = async () => {
  try {
    const answer = await fetch("state", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    main.innerHTML = await answer.text();
    heard.textContent = `Updated ${new Date().toLocaleTimeString()}`;
  } catch {
    heard.textContent = "The watcher no longer answers: this is what was seen last.";
  }
  setTimeout(ask, 2000);
};
setTimeout(ask, 2000);
