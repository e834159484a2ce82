// The chosen word: what model, neighbours and mixture gave it, and which neighbours voted for what.

const NEIGHBOUR_ARRAYS = ["chosen", "place", "distance", "source", "piece", "start", "source_file", "source_line"];

class Details {
  constructor(box, model, close) {
    this.box = box;
    this.model = model;
    this.close = close;
    this.asked = 0;
  }

  clear() {
    this.asked++;
    this.box.classList.remove("open");
    document.body.classList.remove("opened");
    this.box.replaceChildren(
      make("h2", {}, "Choose a " + UNIT),
      make("p", {class: "note"}, "Click one, or move with the arrow keys. Its probabilities and its neighbours in the datastore appear here, each neighbour with the text that it comes from."),
    );
  }

  async show(i) {
    const asked = ++this.asked;
    const model = this.model, word = model.word[i];
    const close = make("button", {type: "button", class: "quiet close"}, "Close");
    close.addEventListener("click", this.close);
    const body = make("div", {});
    const run = facts.runs[lastAtMost(model.runStarts, i)];
    const seen = facts.counts[word] === 1 ? "once" : count(facts.counts[word]) + " times";
    this.box.replaceChildren(
      close,
      make("h2", {}, word === EOS ? "↵ end of line" : lineWord(word)),
      make("p", {class: "where"}, `${model.file ? placeOf(model.file[i], model.line[i]) + " · " : ""}token ${count(run[1] + i - run[0])} of ${facts.split} · ${seen} in the datastore's text`),
      make("p", {class: "query" + AS_IT_IS}, contextOf(model, i, 14) + facts.joint, make("b", {}, shownWord(word))),
      this.probabilities(i),
      this.verdict(i),
      body,
    );
    this.box.classList.add("open");
    document.body.classList.add("opened");
    this.box.scrollTop = 0;
    const parts = await this.neighbours(i);
    if (asked === this.asked) body.append(...parts);
  }

  probabilities(i) {
    const model = this.model, mixture = mixed(model.lm[i], model.knn[i], model.lmbda);
    const rows = [[["p", make("sub", {}, "LM")], model.lm[i], ""], [["p", make("sub", {}, "kNN")], model.knn[i], ""], [["mixture"], mixture, model.gain[i] < 0 ? "harm" : "gain"]];
    const body = rows.map(([name, log, kind]) => {
      const fill = make("span", {class: "fill " + kind});
      fill.style.width = 100 * Math.exp(log) + "%";
      return make("tr", {}, make("th", {scope: "row"}, ...name), make("td", {}, make("span", {class: "track"}, fill)), make("td", {class: "number"}, probability(log)));
    });
    return make("table", {class: "probs"}, make("tbody", {}, ...body));
  }

  verdict(i) {
    const model = this.model, bits = model.gain[i] / LN2;
    const factor = Math.exp(model.gain[i]);
    const text = factor === Infinity ? "from 0" : factor >= 100 ? "× " + count(Math.round(factor)) : "× " + factor.toPrecision(3);
    const parts = [make("b", {class: bits < 0 ? "harm" : "gain"}, `${signed(bits)} bits`), ` (${text})`];
    if (model.lmMax) parts.push(` · the model's first guess had p = ${probability(model.lmMax[i])}`);
    if (model.lmEntropy) parts.push(`, entropy ${(model.lmEntropy[i] / LN2).toFixed(1)} bits`);
    return make("p", {class: "verdict"}, ...parts);
  }

  async neighbours(i) {
    const model = this.model;
    const [chosen, place, distance, source, piece, start, file, line] = await Promise.all(NEIGHBOUR_ARRAYS.map(load));
    const slot = lastAtMost(chosen, i);
    const tally = make("p", {class: "note"}, this.tally(i));
    if (slot < 0 || chosen[slot] !== i) {
      return [tally, make("p", {class: "note"}, `The neighbours of this ${UNIT} are not in the page: it has room for those of the ${count(chosen.length)} ${UNIT}s with the largest change (--max-megabytes ${facts.max_megabytes}).`)];
    }
    const first = slot * facts.shown;
    const items = [];
    let held = 0;
    for (let rank = 0; rank < facts.shown; rank++) {
      const at = place[first + rank];
      if (at === NONE) continue;
      const vote = Math.exp((distance[first] - distance[first + rank]) / facts.settings.temperature - model.votes[i]);
      held += vote;
      items.push(this.neighbour(i, {rank, at, vote, distance: distance[first + rank]}, {source, piece, start, file, line}));
    }
    if (!items.length) return [make("p", {class: "note"}, "No neighbour was found.")];
    tally.append(` The ${items.length === 1 ? "nearest one holds" : `nearest ${items.length} hold`} ${percent(held)} of the votes:`);
    return [tally, make("ol", {class: "neighbours"}, ...items)];
  }

  tally(i) {
    const hits = this.model.hits[i], first = this.model.first[i];
    const among = `${count(facts.settings.k)} neighbours`;
    if (!hits) return `None of the ${among} has this ${UNIT}.`;
    const rank = first === 1 ? "the nearest one does" : `the first is number ${count(first)}`;
    const same = this.model.overlap[i] - 1;
    const most = same >= facts.longest_overlap ? `at least ${same}` : count(same);
    const verbatim = same > 0 ? ` At a hit, the ${same === 1 ? UNIT : most + ` ${UNIT}s`} before ${same === 1 ? "is" : "are"} the same.` : "";
    return `${count(hits)} of the ${among} ${hits === 1 ? "has" : "have"} this ${UNIT}; ${rank}.${verbatim}`;
  }

  neighbour(i, {rank, at, vote, distance}, {source, piece, start, file, line}) {
    const model = this.model, number = lastAtMost(piece, at);
    const begin = Math.max(piece[number], at - facts.before);
    const end = Math.min(number + 1 < piece.length ? piece[number + 1] : source.length, at + facts.after + 1);
    const place = start[number] + at - piece[number], part = lastAtMost(facts.rows.at, place);
    const row = facts.rows.row[part] + place - facts.rows.at[part];
    const run = facts.runs[lastAtMost(model.runStarts, i)][0];
    let same = 0;
    while (at - same - 1 >= begin && i - same - 1 >= run && isSame(source[at - same - 1], model.word[i - same - 1])) same++;
    const words = (from, to) => Array.from(source.subarray(from, to), shownWord).join(facts.joint);
    const hit = isSame(source[at], model.word[i]);
    const where = facts.stores.length > 1 ? ` of ${facts.stores[facts.rows.store[part]]}` : "";
    const [left, right] = [begin > at - facts.before ? "" : "… ", end < at + facts.after + 1 ? "" : " …"]; // none where the text begins or ends
    const context = make("p", {class: "context" + AS_IT_IS}, left + words(begin, at - same) + facts.joint);
    if (same) context.append(make("span", {class: "same"}, words(at - same, at)), facts.joint);
    context.append(make("b", {}, words(at, at + 1)), facts.joint + words(at + 1, end) + right);
    const fill = make("span", {class: "fill" + (hit ? " gain" : "")});
    fill.style.width = 100 * vote + "%";
    return make("li", {class: hit ? "hit" : "miss"},
      make("div", {class: "neighbour"},
        make("span", {}, rank + 1 + "."), make("span", {class: "value"}, lineWord(source[at])),
        hit ? make("span", {class: "mark hit"}, "✓ hit") : make("span", {class: "mark"}, "miss"),
        make("span", {}, percent(vote) + " of the votes"), make("span", {}, "distance " + shortNumber(distance)),
        file ? make("span", {class: "file"}, placeOf(file[at], line[at])) : "",
        make("span", {}, "row " + count(row) + where)),
      context, make("span", {class: "track votes"}, fill));
  }
}

const placeOf = (file, line) => `${facts.files[file]}:${line}`;

function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0) + " %";
}

const shortNumber = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : x.toPrecision(3));
