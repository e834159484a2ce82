// The page's data: facts as JSON, arrays as base64 of compressed little-endian numbers, unpacked when first asked for.

const TYPES = {uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array};
const NONE = 0xffffffff;
const facts = JSON.parse(document.getElementById("facts").textContent);
const unpacked = new Map();

async function unpack(name) {
  const element = document.getElementById("array-" + name);
  if (!element) return null;
  const text = element.textContent;
  const packed = bytesOf(text);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const array = new TYPES[element.dataset.dtype](await new Response(stream).arrayBuffer());
  if (array.length !== Number(element.dataset.length)) throw new Error("the array " + name + " is not whole");
  element.remove(); // the text takes more room than the numbers
  return array;
}

// Returns the bytes of base64, the fast way where the browser has it.
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// Returns a promise of a typed array, null where the page has none of that name.
function load(name) {
  if (!unpacked.has(name)) unpacked.set(name, unpack(name));
  return unpacked.get(name);
}

// Returns ln((1 − λ) e^a + λ e^b).
function mixed(a, b, lmbda) {
  if (lmbda === 0) return a;
  if (lmbda === 1) return b;
  const x = a + Math.log1p(-lmbda), y = b + Math.log(lmbda);
  const high = Math.max(x, y);
  return high === -Infinity ? high : high + Math.log1p(Math.exp(-Math.abs(x - y)));
}

// Returns the last place in a sorted array whose entry is at most x; −1 if there is none.
function lastAtMost(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= x) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// Returns a new element; children are elements or text, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const EOS = facts.words.indexOf("</s>");
const shownWord = (w) => (w === EOS ? "↵" : facts.words[w]);
const isSame = facts.same ? (a, b) => facts.same[a] === facts.same[b] : (a, b) => a === b; // one word of the dictionary
const UNIT = facts.unit; // what the text is called to be made of: "word" or "token"
const AS_IT_IS = facts.joint === "" ? " asis" : ""; // words that hold the white space themselves
const MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥"};
const oneLine = (text) => text.replace(/[\n\r\t]/g, (letter) => MARKS[letter]);
const lineWord = (w) => oneLine(shownWord(w));
const endsLine = (w) => (AS_IT_IS ? facts.words[w].includes("\n") : w === EOS);
const $ = (id) => document.getElementById(id);
const LN2 = Math.LN2;
const count = (n) => n.toLocaleString("en");
const fixed = (x, digits = 2) => (Number.isNaN(x) ? "–" : Math.abs(x) === Infinity ? "∞" : x.toFixed(digits));
const signed = (x, digits = 2) => (x < 0 ? "−" : x >= 0 ? "+" : "") + fixed(Math.abs(x), digits);

// Returns a probability for people: 0.123, 0.00123, 1.2e-7.
function probability(log) {
  const p = Math.exp(log);
  if (p === 0) return "0";
  return p >= 0.0001 ? p.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : p.toExponential(1).replace("-", "−");
}
