"use strict";
// Filters of the graded answers, and the numbers of a token by keyboard and touch. The page is whole
// without them: everything is in it, and a mouse shows a token's numbers.
for (const browser of document.querySelectorAll(".browser")) {
  const [search, outcome, model, differ] = browser.querySelectorAll(".filters input, .filters select");
  const told = browser.querySelector(".found");
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const problem of browser.querySelectorAll(".problem")) {
      let any = false;
      for (const answer of problem.querySelectorAll(".answer")) {
        const fits = (!outcome.value || answer.dataset.outcome === outcome.value)
          && (!model.value || answer.dataset.model === model.value);
        answer.hidden = !fits;
        any = any || fits;
      }
      const text = words.length ? problem.textContent.toLowerCase() : "";
      problem.hidden = !any || !words.every((word) => text.includes(word))
        || (differ.checked && !("differ" in problem.dataset));
      shown += !problem.hidden;
    }
    told.textContent = `${shown} of ${browser.querySelectorAll(".problem").length} problems`;
  };
  browser.querySelector(".filters").hidden = false;
  browser.querySelector(".filters").addEventListener("input", show);
  show();
}
for (const completion of document.querySelectorAll(".completion")) {
  const tokens = [...completion.querySelectorAll(".tokens span")];
  const numbers = completion.querySelector(".numbers");
  let at = -1;
  const pick = (index) => {
    if (index < 0 || index >= tokens.length) return;
    if (at >= 0) tokens[at].classList.remove("picked");
    at = index;
    tokens[at].classList.add("picked");
    numbers.textContent = tokens[at].title.replaceAll("\n", " \u00b7 ");
    tokens[at].scrollIntoView({ block: "nearest" });
  };
  completion.addEventListener("click", (event) => pick(tokens.indexOf(event.target)));
  completion.querySelector(".tokens").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    pick(Math.min(tokens.length - 1, Math.max(0, at + step)));
  });
}
