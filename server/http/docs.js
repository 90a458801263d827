"use strict";
// The page is complete without this; it only adds the filter.
const filter = document.getElementById("filter");
const cards = [...document.querySelectorAll("main article")].map((card) => [card, card.textContent.toLowerCase()]);
const links = [...document.querySelectorAll("nav a")];

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set();
  for (const [card, text] of cards) {
    card.hidden = !words.every((word) => text.includes(word));
    if (!card.hidden) shown.add(card.id);
  }
  for (const section of document.querySelectorAll("main section")) {
    const inside = section.querySelectorAll("article");
    section.hidden = inside.length > 0 && [...inside].every((card) => card.hidden);
  }
  for (const link of links) {
    const id = decodeURIComponent(link.hash.slice(1));
    link.hidden = cards.some(([card]) => card.id === id) && !shown.has(id);
  }
}

filter.hidden = false;
filter.addEventListener("input", apply);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== filter) {
    event.preventDefault();
    filter.focus();
  }
});
