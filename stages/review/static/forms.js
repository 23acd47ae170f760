// What the keys of each kind of campaign mean. A form gets the page's hands and says what was decided.
//
// page.decide(choice, rest)  stores an answer and shows the next item
// page.enter(mode), page.mode  which question is being asked: judge, or one of the form's own
// Each form has start(item), act(action) and digit(n), true when they meant something, and leave(mode).

const all = (selector) => [...document.querySelectorAll(selector)];

/** Accept, or reject with reasons: a digit alone rejects at once, R collects several. */
export function filterForm(page, { reasons }) {
  const chosen = new Set();
  const mark = () => all("[data-reason]").forEach((button) => {
    button.setAttribute("aria-pressed", String(chosen.has(Number(button.dataset.reason))));
  });
  const reject = () => page.decide("reject", { reasons: [...chosen].sort((a, b) => a - b).map((n) => reasons[n]) });
  return {
    start() {},
    leave() { chosen.clear(); mark(); },
    act(action) {
      if (action === "accept") page.decide("accept");
      else if (action === "confirm" && page.mode === "reasons") reject();
      else if (action === "reject" && page.mode === "reasons") reject();
      else if (action === "reject") page.enter("reasons");
      else return false;
      return true;
    },
    digit(n) {
      if (n >= reasons.length) return false;
      if (page.mode === "judge") page.decide("reject", { reasons: [reasons[n]] });
      else if (!chosen.delete(n)) chosen.add(n);
      mark();
      return true;
    },
  };
}

/** Left, same, right, both bad or broken; a Consis pair asks a second question once a side is preferred. */
export function pairForm(page, { form }) {
  let preferred = null;
  return {
    start() {},
    leave(mode) { if (mode !== "second") preferred = null; },
    act(action) {
      if (page.mode === "second") {
        if (action !== "rest_yes" && action !== "rest_no") return false;
        page.decide(preferred, { rest_same: action === "rest_yes" });
      } else if (form === "consis" && (action === "left" || action === "right")) {
        page.enter("second");
        preferred = action;
      } else if (["left", "same", "right", "both_bad", "broken"].includes(action)) page.decide(action);
      else return false;
      return true;
    },
    digit: () => false, // digits stand in the key table
  };
}

/** Each dimension 1 to 5. The rating that fills the last gap of a new item sends it; one that was full waits for Enter. */
export function likertForm(page, { dimensions }) {
  let scores = {};
  let row = 0;
  let full = false;
  const complete = () => dimensions.every((name) => name in scores);
  const draw = () => {
    all("[data-dimension]").forEach((group, n) => {
      group.classList.toggle("marked", n === row);
      for (const button of group.querySelectorAll("[data-score]")) {
        button.setAttribute("aria-pressed", String(scores[group.dataset.dimension] === Number(button.dataset.score)));
      }
    });
    all('[data-action="send"]').forEach((button) => { button.disabled = !complete(); });
  };
  const send = () => page.decide("rate", { scores: { ...scores } });
  const rate = (name, score) => {
    scores = { ...scores, [name]: score };
    const gap = dimensions.findIndex((one) => !(one in scores));
    row = gap >= 0 ? gap : dimensions.indexOf(name);
    draw();
    if (complete() && !full) send();
    else page.draft(scores);
  };
  return {
    start(item) {
      scores = { ...(item.view.draft ?? item.said?.scores ?? {}) };
      full = complete();
      row = Math.max(0, dimensions.findIndex((name) => !(name in scores)));
      draw();
    },
    leave() {},
    act(action) {
      if (action === "row_up") row = Math.max(0, row - 1);
      else if (action === "row_down") row = Math.min(dimensions.length - 1, row + 1);
      else if (action === "send" && complete()) { send(); return true; }
      else return false;
      draw();
      return true;
    },
    digit(n) {
      if (n > 4) return false;
      rate(dimensions[row], n + 1);
      return true;
    },
    rate,
  };
}
