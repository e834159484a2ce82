// The page's state: λ, the view, what is looked for, the chosen word; and the keys.

const SHADES = [0.05, 0.2, 0.4, 1, 2]; // least change of each shade, in bits; the same for gain and harm
const CURVE_POINTS = 41;
const TABS = ["read", "groups", "sweep", "about"];

const model = {
  lmbda: facts.settings.lmbda,
  size: facts.tokens,
  runStarts: facts.runs.map((run) => run[0]),

  // Returns the class of a token's colour, "" for none.
  shade(i) {
    const bits = this.gain[i] / LN2, step = lastAtMost(SHADES, Math.abs(bits)) + 1;
    return step ? (bits < 0 ? "h" : "g") + step : "";
  },

  // Computes every token's gain, in nats, and the sums for the header.
  update() {
    const least = SHADES[0] * LN2;
    let lm = 0, sum = 0, helped = 0, harmed = 0;
    for (let i = 0; i < this.size; i++) {
      const log = mixed(this.lm[i], this.knn[i], this.lmbda);
      const gain = log === this.lm[i] ? 0 : log - this.lm[i];
      this.gain[i] = gain;
      lm += this.lm[i];
      sum += log;
      if (gain >= least) helped++; else if (gain <= -least) harmed++;
    }
    Object.assign(this, {lmPpl: Math.exp(-lm / this.size), ppl: Math.exp(-sum / this.size), helped, harmed});
  },

  // Returns the mixture's mean loss at a λ, in nats.
  loss(lmbda) {
    let sum = 0;
    for (let i = 0; i < this.size; i++) sum -= mixed(this.lm[i], this.knn[i], lmbda);
    return sum / this.size;
  },
};

const state = {query: "", order: "text", rare: false, selected: -1, tab: "read"};
let textView, listView, details;

const isList = () => state.query.trim() !== "" || state.order !== "text" || state.rare;
const view = () => (isList() ? listView : textView);

function showHeader() {
  const change = 100 * (model.ppl / model.lmPpl - 1);
  const part = (n) => (100 * n / model.size).toFixed(0) + " %";
  const figures = [
    ["Model alone", fixed(model.lmPpl), "perplexity"],
    ["With neighbours", fixed(model.ppl), "perplexity"],
    ["Change", signed(change, 1) + " %", "", change > 0 ? "harm" : "gain"],
    ["Helped", part(model.helped), `of ${UNIT}s`],
    ["Harmed", part(model.harmed), `of ${UNIT}s`],
  ];
  $("figures").replaceChildren(...figures.map(([name, value, unit, kind]) => make("div", {}, make("dt", {}, name), make("dd", {class: kind || ""}, value + " ", make("small", {}, unit)))));
  $("lmbda-value").textContent = model.lmbda.toFixed(2);
  $("lmbda-reset").hidden = Math.abs(model.lmbda - facts.settings.lmbda) < 0.005;
  const most = -Math.log2(1 - model.lmbda); // the largest harm that there can be
  const chip = (kind, n, sign) => make("span", {class: "t " + kind + (n + 1)}, sign + SHADES[n]);
  const steps = SHADES.map((_, n) => n);
  const end = model.lmbda > 0 && model.lmbda < 1 ? ` No ${UNIT} can lose more than ${most.toFixed(2)} at λ = ${model.lmbda.toFixed(2)}.` : "";
  $("legend").replaceChildren(
    make("span", {}, "Change in bits, orange is harm, blue is gain:"),
    make("span", {class: "scale"}, ...steps.filter((n) => SHADES[n] <= most).reverse().map((n) => chip("h", n, "−")), ...steps.map((n) => chip("g", n, "+"))),
    make("span", {}, "and more." + end));
}

function showView() {
  const keep = state.selected;
  if (isList()) {
    const found = find(model, state);
    textView.hide();
    listView.show(found);
    const more = found.length > LIST_MOST ? `, the first ${LIST_MOST} are listed` : "";
    $("status").textContent = `${count(found.length)} of ${count(model.size)} tokens${more}`;
    if (keep >= 0) listView.select(keep);
  } else {
    listView.hide();
    textView.show();
    $("status").textContent = "";
    if (keep >= 0) textView.select(keep);
  }
}

function select(i) {
  state.selected = i;
  if (i < 0) {
    details.clear();
    $("text").removeAttribute("aria-activedescendant");
  } else {
    details.show(i); // first, so that a panel that opens over the text is counted in the scrolling
  }
  view().select(i);
}

// Draws the perplexity over λ behind the slider, a point at a time so that the page stays free.
function drawCurve() {
  const lambdas = Array.from({length: CURVE_POINTS}, (_, n) => n / (CURVE_POINTS - 1));
  const losses = [];
  const next = () => {
    if (losses.length < CURVE_POINTS) {
      losses.push(model.loss(lambdas[losses.length]));
      setTimeout(next);
      return;
    }
    const low = Math.min(...losses);
    if (!Number.isFinite(low)) return; // a word that both find impossible
    const height = Math.max(3 * (losses[0] - low), 0.02); // the curve's upper end would flatten the part that matters
    const points = losses.map((loss, n) => [100 * lambdas[n], 22 - (22 * (loss - low)) / height]);
    const best = losses.indexOf(low);
    $("curve-line").setAttribute("points", points.filter((point) => point[1] >= 0).map((point) => point.join(",")).join(" "));
    $("best").textContent = `best on this text: λ ≈ ${lambdas[best].toFixed(3).replace(/0$/, "")}, perplexity ${fixed(Math.exp(low))}`;
  };
  next();
}

function setLambda(value) {
  model.lmbda = value;
  $("lmbda").value = value;
  model.update();
  showHeader();
  if (isList()) showView(); else textView.recolour();
  if (state.selected >= 0) select(state.selected);
  if (state.tab === "groups") showGroups($("view-groups"), model);
}

function showTab(name) {
  state.tab = name;
  for (const tab of TABS) {
    const chosen = tab === name;
    $("view-" + tab).hidden = !chosen;
    $("tab-" + tab).setAttribute("aria-selected", chosen);
    $("tab-" + tab).tabIndex = chosen ? 0 : -1;
  }
  if (name === "groups") showGroups($("view-groups"), model);
}

function toText() {
  const i = state.selected;
  Object.assign(state, {query: "", order: "text", rare: false});
  $("query").value = "";
  $("order").value = "text";
  $("rare").checked = false;
  showView();
  if (i >= 0) textView.reveal(i, "center");
  $("text").focus({preventScroll: true});
}

function escape(event) {
  if (event.target === $("query") && $("query").value === "") $("text").focus();
  else if (isList()) toText();
  else if (state.selected >= 0) select(-1);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return escape(event);
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.target.role === "tab") return;
  if (event.key === "/") {
    event.preventDefault();
    showTab("read");
    $("query").focus();
    $("query").select();
    return;
  }
  if (state.tab !== "read") return;
  if (event.key === "t" && isList()) return toText();
  const i = state.selected, shown = view();
  const first = isList() ? listView.shown[0] ?? -1 : firstVisible();
  const moves = {
    ArrowRight: () => shown.step(i, 1), j: () => shown.step(i, 1), ArrowLeft: () => shown.step(i, -1), k: () => shown.step(i, -1),
    ArrowDown: () => shown.line(i, 1), ArrowUp: () => shown.line(i, -1), Home: () => shown.step(i, -Infinity), End: () => shown.step(i, Infinity),
  };
  const move = moves[event.key];
  if (!move || $("details").contains(event.target)) return;
  event.preventDefault();
  const next = i < 0 && !["Home", "End"].includes(event.key) ? first : move();
  if (next >= 0) select(next);
}

// Returns the first token in the window, where moving begins.
function firstVisible() {
  const top = $("view-read").querySelector(".tools").getBoundingClientRect().bottom;
  for (const element of $("text").querySelectorAll(".t")) {
    if (element.getBoundingClientRect().top >= top) return Number(element.dataset.i);
  }
  return 0;
}

function listen() {
  $("text").addEventListener("click", (event) => {
    const element = event.target.closest("[data-i]");
    if (element) select(Number(element.dataset.i));
  });
  document.addEventListener("keydown", onKey);
  let waiting;
  $("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = $("query").value; showView(); }, 120);
  });
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      clearTimeout(waiting);
      state.query = $("query").value;
      showView();
      $("text").focus();
      if (isList() && listView.shown.length) select(listView.shown[0]);
    }
  });
  $("order").addEventListener("change", () => { state.order = $("order").value; showView(); });
  $("rare").addEventListener("change", () => { state.rare = $("rare").checked; showView(); });
  $("lmbda").addEventListener("input", () => setLambda(Number($("lmbda").value)));
  $("lmbda-reset").addEventListener("click", () => setLambda(facts.settings.lmbda));
  const visible = TABS.filter((tab) => !$("tab-" + tab).hidden);
  for (const tab of visible) {
    $("tab-" + tab).addEventListener("click", () => showTab(tab));
    $("tab-" + tab).addEventListener("keydown", (event) => {
      const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!by) return;
      const next = visible[(visible.indexOf(tab) + by + visible.length) % visible.length];
      showTab(next);
      $("tab-" + next).focus();
    });
  }
}

function listenTheme() {
  const themes = ["system", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length];
    if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
    $("theme").textContent = "Theme: " + next;
  });
}

async function start() {
  listenTheme();
  const names = ["word", "lm", "knn", "votes", "hits", "first", "overlap", "lm_max", "lm_entropy", "file", "line"];
  const [word, lm, knn, votes, hits, first, overlap, lmMax, lmEntropy, file, line] = await Promise.all(names.map(load));
  Object.assign(model, {word, lm, knn, votes, hits, first, overlap, lmMax, lmEntropy, file, line, gain: new Float32Array(facts.tokens)});
  model.update();
  const {k, temperature} = facts.settings;
  $("sub").textContent = `${facts.split}: ${count(facts.tokens)}${facts.tokens < facts.all_tokens ? ` of ${count(facts.all_tokens)}` : ""} tokens · k = ${count(k)} · temperature ${temperature} · ${facts.origin}`;
  $("lmbda").value = model.lmbda;
  textView = new TextView($("text"), model);
  listView = new ListView($("text"), model);
  details = new Details($("details"), model, () => { select(-1); $("text").focus({preventScroll: true}); });
  showHeader();
  $("tab-sweep").hidden = facts.figures.length === 0 && !facts.summary;
  showSweep($("view-sweep"));
  showAbout($("view-about"));
  details.clear();
  listen();
  showView();
  document.documentElement.dataset.ready = "true";
  drawCurve();
  setTimeout(() => NEIGHBOUR_ARRAYS.forEach(load), 200); // so that the first word that is chosen need not wait
}

start().catch((error) => {
  $("text").replaceChildren(make("p", {class: "loading"}, "The page could not be opened: " + error.message));
  throw error;
});
