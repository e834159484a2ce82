// Words that were asked for, one a line with the words before it.

const LIST_MOST = 300, RARE_BELOW = 10, LIST_CONTEXT = 9;

// Returns which words of the vocabulary are meant, null for all: the whole word, else its beginning; * is any letters.
function matching(query) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return null;
  const words = facts.words.map((word) => word.trim().toLowerCase());
  let fits = words.map((word) => word === wanted);
  if (!fits.includes(true) && wanted.includes("*")) {
    const pattern = wanted.split("*").map((part) => part.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join(".*");
    const expression = new RegExp("^" + pattern + "$", "u");
    fits = words.map((word) => expression.test(word));
  } else if (!fits.includes(true)) {
    fits = words.map((word) => word.startsWith(wanted));
  }
  return fits;
}

// Returns the tokens that are asked for, in the order that is asked for.
function find(model, {query, order, rare}) {
  const fits = matching(query);
  const found = [];
  for (let i = 0; i < model.size; i++) {
    const word = model.word[i];
    if ((fits === null || fits[word]) && (!rare || facts.counts[word] < RARE_BELOW)) found.push(i);
  }
  if (order === "gain") found.sort((a, b) => model.gain[b] - model.gain[a] || a - b);
  if (order === "harm") found.sort((a, b) => model.gain[a] - model.gain[b] || a - b);
  return found;
}

class ListView {
  constructor(box, model) {
    this.box = box;
    this.model = model;
    this.shown = [];
    this.selected = -1;
  }

  show(found) {
    this.shown = found.slice(0, LIST_MOST);
    this.box.replaceChildren(...this.shown.map((i) => this.row(i)));
    if (!found.length) this.box.append(make("p", {class: "loading"}, "Nothing like this is in the text."));
    this.selected = -1;
  }

  hide() {
    this.shown = [];
    this.box.replaceChildren();
  }

  row(i) {
    const bits = this.model.gain[i] / LN2;
    const left = make("span", {class: "left"}, oneLine(contextOf(this.model, i, LIST_CONTEXT)) + facts.joint);
    const word = make("span", {class: tokenClass(this.model, i, false)}, lineWord(this.model.word[i]));
    const gain = make("span", {class: "bits " + (bits < 0 ? "harm" : "gain")}, signed(bits) + " bits");
    return make("div", {class: "hit-row", role: "option", id: "t" + i, "data-i": i, "aria-selected": false}, make("span", {}, left, word), gain);
  }

  select(i) {
    const old = this.selected >= 0 && $("t" + this.selected);
    if (old) {
      old.classList.remove("sel");
      old.setAttribute("aria-selected", false);
    }
    this.selected = i;
    const element = i >= 0 && $("t" + i);
    if (!element) return;
    element.classList.add("sel");
    element.setAttribute("aria-selected", true);
    element.scrollIntoView({block: "nearest"});
    this.box.setAttribute("aria-activedescendant", element.id);
  }

  step(i, by) {
    const at = this.shown.indexOf(i);
    if (at < 0) return this.shown.length ? this.shown[0] : i;
    return this.shown[Math.min(this.shown.length - 1, Math.max(0, at + by))];
  }

  line(i, by) {
    return this.step(i, by);
  }
}

// Returns the words before a token, as far as the text goes on without a gap.
function contextOf(model, i, most) {
  const run = facts.runs[lastAtMost(model.runStarts, i)][0];
  const from = Math.max(run, i - most);
  const words = [];
  for (let j = from; j < i; j++) words.push(shownWord(model.word[j]));
  return (from > run ? "… " : "") + words.join(facts.joint);
}
