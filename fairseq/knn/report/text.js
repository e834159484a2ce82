// The text, in chunks of some hundred words, of which only those near the window are in the document.

const CHUNK_LEAST = 150, CHUNK_MOST = AS_IT_IS ? 1200 : 400; // the latter breaks a line

class TextView {
  constructor(box, model) {
    this.box = box;
    this.model = model;
    this.starts = [];
    this.chunks = [];
    this.selected = -1;
    this.breaks = new Map(facts.runs.slice(1));
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const number = Number(entry.target.dataset.number);
        if (entry.isIntersecting) this.fill(number); else this.empty(number);
      }
    }, {rootMargin: "1500px 0px"});
    this.box.className += AS_IT_IS;
    this.cut();
  }

  // Chunks end behind a line's end, or before the word that begins with one: after a chunk a new line begins.
  cut() {
    const {word, size} = this.model;
    const begins = (i) => i < size && facts.words[word[i]].startsWith("\n");
    const ends = AS_IT_IS ? (i) => facts.words[word[i]].endsWith("\n") || begins(i + 1) : (i) => word[i] === EOS;
    let start = 0;
    for (let i = 0; i < size; i++) {
      const length = i + 1 - start;
      if ((length >= CHUNK_LEAST && ends(i)) || length >= CHUNK_MOST || i === size - 1) {
        this.starts.push(start);
        start = i + 1;
      }
    }
  }

  show() {
    const width = Math.max(200, this.box.clientWidth), perLine = width / 8.5;
    this.chunks = this.starts.map((start, number) => {
      const end = this.end(number);
      let letters = 0, lines = 0;
      for (let i = start; i < end; i++) {
        letters += facts.words[this.model.word[i]].length + (AS_IT_IS ? 0 : 1.6);
        if (endsLine(this.model.word[i])) lines += 0.5;
      }
      const chunk = make("div", {class: "chunk", role: "presentation", "data-number": number});
      chunk.style.height = Math.ceil(letters / perLine + lines) * 31 + "px";
      return chunk;
    });
    this.box.replaceChildren(...this.chunks);
    for (const chunk of this.chunks) this.observer.observe(chunk);
  }

  hide() {
    this.observer.disconnect();
    this.chunks = [];
    this.box.replaceChildren();
  }

  end(number) {
    return number + 1 < this.starts.length ? this.starts[number + 1] : this.model.size;
  }

  fill(number) {
    const chunk = this.chunks[number];
    if (!chunk || chunk.firstChild) return;
    const parts = document.createDocumentFragment();
    for (let i = this.starts[number]; i < this.end(number); i++) {
      if (this.breaks.has(i)) parts.append(make("span", {class: "gap"}, "[…] "));
      const element = token(this.model, i, i === this.selected);
      if (AS_IT_IS && number && i === this.starts[number] && !facts.words[this.model.word[i - 1]].endsWith("\n")) {
        element.textContent = element.textContent.replace(/^\n/, ""); // the line has ended with the chunk before
      }
      parts.append(element, facts.joint);
      if (this.model.word[i] === EOS) parts.append(make("br"));
    }
    chunk.style.height = "";
    chunk.append(parts);
  }

  empty(number) {
    const chunk = this.chunks[number];
    if (!chunk || !chunk.firstChild) return;
    chunk.style.height = chunk.getBoundingClientRect().height + "px";
    chunk.replaceChildren();
  }

  // Returns the element of a token, made if it is not in the document yet.
  element(i) {
    this.fill(lastAtMost(this.starts, i));
    return $("t" + i);
  }

  recolour() {
    for (const element of this.box.querySelectorAll(".t")) {
      const i = Number(element.dataset.i);
      element.className = tokenClass(this.model, i, i === this.selected);
    }
  }

  select(i) {
    const before = this.selected;
    this.selected = i;
    const old = before >= 0 && $("t" + before);
    if (old) mark(old, this.model, before, false);
    if (i < 0) return;
    const element = this.element(i);
    mark(element, this.model, i, true);
    this.reveal(i, "nearest");
    this.box.setAttribute("aria-activedescendant", element.id);
  }

  // Scrolls to a token, and once more when the chunks around it have found their heights.
  reveal(i, block) {
    const number = lastAtMost(this.starts, i);
    for (const near of [number - 1, number, number + 1]) this.fill(near);
    const scroll = (where) => i === this.selected && $("t" + i)?.scrollIntoView({block: where});
    scroll(block);
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => scroll("nearest"))));
  }

  step(i, by) {
    return Math.min(this.model.size - 1, Math.max(0, i + by));
  }

  // Returns the token above (−1) or below (+1), the nearest in that line.
  line(i, by) {
    const from = this.element(i).getBoundingClientRect(), middle = (from.left + from.right) / 2;
    let best = -1, distance = Infinity, top = null;
    for (let j = i + by; j >= 0 && j < this.model.size && Math.abs(j - i) < 300; j += by) {
      const rect = this.element(j).getBoundingClientRect();
      if (Math.abs(rect.top - from.top) < 8) continue;
      if (top === null) top = rect.top;
      if (Math.abs(rect.top - top) >= 8) break;
      const away = Math.abs((rect.left + rect.right) / 2 - middle);
      if (away < distance) [best, distance] = [j, away];
    }
    return best < 0 ? i : best;
  }
}

function tokenClass(model, i, selected) {
  const shade = model.shade(i);
  return "t" + (shade ? " " + shade : "") + (model.word[i] === EOS ? " eos" : "") + (selected ? " sel" : "");
}

function mark(element, model, i, selected) {
  element.className = tokenClass(model, i, selected);
  element.setAttribute("aria-selected", selected);
}

function token(model, i, selected) {
  const attributes = {class: tokenClass(model, i, selected), id: "t" + i, "data-i": i, role: "option", "aria-selected": selected};
  return make("span", attributes, shownWord(model.word[i]));
}
