"""A retrieval with the two texts that it speaks of, made by hand: words that HTML would take for markup, and a leak."""

import json
from pathlib import Path

import numpy as np

NASTY = [
    "<script>alert(1)</script>",
    "</script>",
    "&amp;",
    '"quoted"',
    "<!--",
    "<img/src=x/onerror=document.title=1>",
    "{{js}}",
    "é\u2028x",
]
PLAIN = ["the", ",", ".", "1984", "3rd", "government", "of", "New@-@York"]
FIRST = 5  # row 0 of the datastore stands here in its text


def write_split(prefix: Path, ids: np.ndarray) -> None:
    """Writes a split of one sentence after every </s>."""
    ends = [*(np.flatnonzero(ids == 2) + 1), *([] if ids[-1] == 2 else [len(ids)])]
    starts = [0, *ends[:-1]]
    sizes = np.subtract(ends, starts).astype("<i4")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.bin").write_bytes(ids.astype("<u2").tobytes())
    header = b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little") + bytes([8]) + len(sizes).to_bytes(8, "little")
    offsets = (np.array(starts) * 2).astype("<i8")
    Path(f"{prefix}.idx").write_bytes(header + sizes.tobytes() + offsets.tobytes())


def shown_retrieval(
    root: Path, tokens: int = 120, k: int = 12, source_tokens: int = 400, words: int = 0, seed: int = 0
) -> Path:
    """Writes texts, dictionary and retrieval under ``root`` and returns the retrieval's directory."""
    rng = np.random.default_rng(seed)
    symbols = [*NASTY, *PLAIN, *(f"w{i}" for i in range(words))]
    data = root / "data-bin"
    source = _text(rng, source_tokens, len(symbols))
    text = _text(rng, tokens + 7, len(symbols))
    leak = min(20, tokens // 2)
    text[40 : 40 + leak] = source[100 : 100 + leak]
    write_split(data / "train", source)
    write_split(data / "valid", text)
    (data / "dict.txt").write_text("".join(f"{s} {i + 1}\n" for i, s in enumerate(symbols)), encoding="utf-8")
    positions = np.arange(7, tokens + 7)
    positions[tokens // 2 :] -= 2  # the second half stands elsewhere in the text: there is a gap of −2
    ids = np.argsort(rng.random((min(tokens, 2000), source_tokens - FIRST)), axis=1)[:, :k].astype("<i4")
    ids = ids[np.arange(tokens) % len(ids)]
    for token in range(tokens):
        if 40 <= positions[token] < 40 + leak:
            leaked = 100 + positions[token] - 40 - FIRST
            ids[token][ids[token] == leaked] = ids[token][0]
            ids[token][0] = leaked
    distances = np.sort(rng.random((tokens, k)) * 20, axis=1).astype("<f4")
    ids[3:4, k // 2 :], distances[3:4, k // 2 :] = -1, np.inf
    ids[4:5], distances[4:5] = -1, np.inf
    targets = text[positions].astype("<i4")
    hits = (source[np.maximum(ids, 0) + FIRST] == targets[:, None]) & (ids >= 0)
    return _write(
        root,
        data,
        dict(
            targets=targets,
            positions=positions.astype("<i8"),
            blocks=(np.arange(tokens) // 16).astype("<i4"),
            lm_log_prob=np.log(rng.random(tokens) * 0.9 + 1e-6),
            ids=ids,
            distances=distances,
            hits=np.packbits(hits, axis=1, bitorder="little"),
        ),
        k,
        len(symbols) + 4,
    )


def _text(rng: np.random.Generator, size: int, num_symbols: int) -> np.ndarray:
    text = 4 + (rng.random(size) ** 2 * num_symbols).astype(np.int64)
    text[rng.random(size) < 0.05] = 2
    return text


def _write(root: Path, data: Path, arrays: dict[str, np.ndarray], k: int, vocabulary: int) -> Path:
    directory = root / "saved"
    directory.mkdir()
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    manifest = {
        "kind": "retrieval",
        "version": 1,
        "state": "done",
        "num_tokens": len(arrays["targets"]),
        "k": k,
        "vocabulary_size": vocabulary,
        "split": "valid",
        "data": str(data / "valid"),
        "dictionary": str(data / "dict.txt"),
        "settings": {},
        "lmbda": 0.25,
        "knn_temp": 2.0,
        "identity": {},
        "datastore": {"prefix": "dstore", "data": str(data / "train"), "context_window": 0, "first_position": FIRST},
        "files": {f"{name}.npy": {} for name in arrays},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory
