// Where the gain comes from, what sweeps have found, and what the page is.

// Returns, for every group with tokens: label, tokens, mean loss of the model and of the mixture, share of the gain (bits).
function groupRows(model, code, labels) {
  const size = labels.length, tokens = new Float64Array(size), [lm, mixture, gain] = [0, 1, 2].map(() => new Float64Array(size));
  for (let i = 0; i < model.size; i++) {
    tokens[code[i]]++;
    lm[code[i]] -= model.lm[i] / LN2;
    mixture[code[i]] -= mixed(model.lm[i], model.knn[i], model.lmbda) / LN2;
    gain[code[i]] += model.gain[i] / LN2;
  }
  const rows = labels.map((label, g) => ({label, tokens: tokens[g], lm: lm[g] / tokens[g], mixture: mixture[g] / tokens[g], share: gain[g] / model.size}));
  return rows.filter((row) => row.tokens);
}

async function showGroups(box, model) {
  const codes = await Promise.all(facts.groups.map((_, number) => load("group" + number)));
  box.replaceChildren(
    make("p", {class: "note"}, "Loss is in bits per token; what a group adds is its part of the mean gain over the whole text, so that each table sums to the same."),
    ...facts.groups.map((group, number) => groupTable(group, groupRows(model, codes[number], group.labels), model)),
  );
}

function groupTable(group, rows, model) {
  const shares = rows.map((row) => row.share).filter(Number.isFinite);
  const least = Math.min(0, ...shares), most = Math.max(1e-9, ...shares);
  const kind = (column) => (column === 1 || column === 2 ? "mean" : ""); // what a narrow window leaves out
  const head = ["tokens", "model", "mixture", "adds", ""].map((name, column) => make("th", {scope: "col", class: kind(column)}, name));
  const body = rows.map((row) => {
    const cells = [count(row.tokens), fixed(row.lm), fixed(row.mixture), signed(row.share, 3)];
    return make("tr", {}, make("th", {scope: "row"}, row.label), ...cells.map((text, column) => make("td", {class: kind(column)}, text)), make("td", {class: "bar"}, diverging(row.share, least, most)));
  });
  const sum = (name) => rows.reduce((total, row) => total + row[name] * row.tokens, 0) / model.size;
  const total = [count(model.size), fixed(sum("lm")), fixed(sum("mixture")), signed(rows.reduce((t, row) => t + row.share, 0), 3), ""];
  const foot = make("tr", {}, make("th", {scope: "row"}, "all"), ...total.map((text, column) => make("td", {class: kind(column)}, text)));
  return make("div", {class: "group"}, make("h2", {}, group.title), make("p", {class: "note"}, group.note),
    make("table", {}, make("thead", {}, make("tr", {}, make("th", {scope: "col"}), ...head)), make("tbody", {}, ...body), make("tfoot", {}, foot)));
}

function diverging(share, least, most) {
  const width = most - least, zero = -least / width;
  if (!Number.isFinite(share)) return "";
  const bar = make("i", {});
  bar.style.left = 100 * (share < 0 ? zero + share / width : zero) + "%";
  bar.style.width = 100 * Math.abs(share) / width + "%";
  bar.style.background = share < 0 ? "var(--harm)" : "var(--gain)";
  const axis = make("i", {class: "zero"});
  axis.style.left = 100 * zero + "%";
  return make("span", {class: "diverge", "aria-hidden": "true"}, bar, axis);
}

// Returns a table of text cells under a head of text.
function plainTable(head, rows) {
  const row = ([name, ...cells]) => make("tr", {}, make("th", {scope: "row"}, name), ...cells.map((text) => make("td", {class: text.startsWith("--") ? "words" : ""}, text)));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head.map((name) => make("th", {scope: "col"}, name)))), make("tbody", {}, ...rows.map(row)));
}

// Returns the perplexities and gains that other commands have kept beside the retrieval, if any have.
function summaryPanel() {
  if (!facts.summary) return [];
  const {texts, rows, gains, sized} = facts.summary;
  const shown = (value, digits) => (value === null ? "–" : fixed(value, digits));
  const bySize = (row) => (sized ? [shown(row.word), shown(row.byte, 4)] : []);
  const ppl = rows.map((row) => [row.name, ...row.ppl.map((value) => shown(value)), ...bySize(row), row.setting]);
  const panel = make("div", {class: "group summary"}, make("h2", {}, "Perplexity"),
    make("p", {class: "note"}, `Every setting was chosen on ${texts[0]}.`), plainTable(["", ...texts, ...(sized ? [`${sized}, a word`, `${sized}, bits a byte`] : []), "setting"], ppl));
  if (gains.length) panel.append(make("h2", {}, "Gain, with its 95 % interval"), plainTable(["", ...texts], gains.map((gain) => [gain.name, ...gain.cells])));
  return [panel];
}

function showSweep(box) {
  box.replaceChildren(...summaryPanel(), ...facts.figures.map(([file, url]) => {
    const name = file.replaceAll("_", " ");
    return make("figure", {}, make("img", {src: url, alt: "Figure of the sweep: " + name}), make("figcaption", {}, name));
  }));
}

const KEYS = [["→ ← or j k", `next, previous ${UNIT} (or line of a list)`], ["↓ ↑", `the ${UNIT} below, above`], ["Home End", `first, last ${UNIT}`], ["/", `find a ${UNIT}`], ["t", `from a list to the ${UNIT}'s place in the text`], ["Esc", `back: from the search, the list, the ${UNIT}`]];

function showAbout(box) {
  const {settings} = facts;
  const left = [];
  if (facts.tokens < facts.all_tokens) left.push(`The page has the first ${count(facts.tokens)} of ${count(facts.all_tokens)} scored tokens (--max-tokens).`);
  if (facts.with_neighbours < facts.tokens) left.push(`Neighbours are shown for ${count(facts.with_neighbours)} tokens: those with the largest gains and harms, as many as --max-megabytes ${facts.max_megabytes} holds.`);
  if (facts.shown < settings.k) left.push(`Of the ${count(settings.k)} neighbours that vote, each token shows the nearest ${facts.shown} (--neighbours). All of them count in p kNN.`);
  if (facts.has_cache) left.push("The saved cache has no part in these numbers; fairseq-knnlm sweep-cache puts it into the table under Results.");
  left.push(`Of the datastore's text (${count(facts.source_tokens)} tokens), the page has what stands around these neighbours.`);
  left.push(`Verbatim context is looked for at each token's nearest ${facts.overlap_hits} hits, up to ${facts.longest_overlap} tokens.`);
  box.replaceChildren(
    make("h2", {}, "What is shown"),
    make("p", {}, `A kNN-LM mixes the opinion of a language model on the next ${UNIT} with that of the nearest neighbours of its context in a datastore: p = (1 − λ) p LM + λ p kNN. A ${UNIT}'s colour says how much the mixture gave it more (blue) or less (orange) than the model alone: log p − log p LM, in bits. A ${UNIT} counts as helped or harmed from 0.05 bits on.`),
    make("p", {}, `Settings: k = ${count(settings.k)}, temperature ${settings.temperature}, λ = ${settings.lmbda}, ${facts.origin}. The slider changes λ in the page; p kNN stays.`),
    make("h2", {}, "What is left out"), make("ul", {}, ...left.map((line) => make("li", {}, line))),
    make("h2", {}, "Keys"), make("table", {class: "keys"}, make("tbody", {}, ...KEYS.map(([keys, does]) => make("tr", {}, make("td", {}, make("kbd", {}, keys)), make("td", {}, does))))),
    make("p", {class: "note"}, "This file is complete in itself: it loads nothing and sends nothing."),
  );
}
