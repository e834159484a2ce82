"""``fairseq-knnlm report`` on 200,000 synthetic tokens: seconds to write the page, its size, seconds to open it.

    python benchmarks/report.py [--tokens 200000] [--rows 2000000] [--k 64] [--megabytes 30]

Words follow Zipf's law; neighbours are scattered over the whole text, the worst case for the page, which holds the
text around them. The page does not depend on k but for its p_kNN. It is opened in headless Chromium, if that and
selenium are there: until the text can be read, and three seconds later from a click to the neighbours of a word.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.knn.report.build import write_report
from fairseq.knn.report.config import ReportConfig

VOCABULARY, SENTENCE = 30_000, 25
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)


def write_text(prefix: Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """Writes a split of ``size`` words and returns them."""
    ids = np.minimum(rng.zipf(1.2, size), VOCABULARY - 4) + 3
    ids[SENTENCE - 1 :: SENTENCE] = 2
    with IndexedDatasetWriter(prefix, VOCABULARY) as writer:
        sizes = np.full(size // SENTENCE, SENTENCE)
        writer.write(ids, np.append(sizes, size % SENTENCE) if size % SENTENCE else sizes)
    return ids


def write_retrieval(root: Path, tokens: int, rows: int, k: int) -> Path:
    """Writes texts, dictionary and retrieval, and returns the retrieval's directory."""
    rng = np.random.default_rng(0)
    words = "".join(f"word{n} {VOCABULARY - n}\n" for n in range(VOCABULARY - 4))
    (root / "dict.txt").write_text(words, encoding="utf-8")
    source, text = write_text(root / "train", rows, rng), write_text(root / "valid", tokens, rng)
    steps = rng.integers(1, rows // (k + 1), (tokens, k))  # rows that differ, in any order
    ids = rng.permuted((np.cumsum(steps, axis=1) % rows).astype("<i4"), axis=1)
    arrays = {
        "targets": text.astype("<i4"),
        "positions": np.arange(tokens),
        "ids": ids,
        "blocks": (np.arange(tokens) // 64).astype("<i4"),
        "lm_log_prob": -rng.gamma(2.0, 2.5, tokens),
        "distances": np.sort(rng.gamma(4.0, 8.0, (tokens, k)), axis=1).astype("<f4"),
        "hits": np.packbits(source[ids] == text[:, None], axis=1, bitorder="little"),
    }
    directory = root / "saved"
    directory.mkdir()
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    manifest = {
        "kind": "retrieval",
        "version": 1,
        "state": "done",
        "num_tokens": tokens,
        "k": k,
        "vocabulary_size": VOCABULARY,
        "split": "valid",
        "data": str(root / "valid"),
        "dictionary": str(root / "dict.txt"),
        "settings": {},
        "lmbda": 0.25,
        "knn_temp": 10.0,
        "identity": {},
        "datastore": {"data": str(root / "train"), "first_position": 0},
        "files": {f"{name}.npy": {} for name in arrays},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def open_page(page: Path, profile: Path) -> dict[str, float] | None:
    """Returns the seconds that opening takes, None where there is no browser."""
    chromium, service = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if chromium is None or service is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        start = time.monotonic()
        driver.get(page.as_uri())
        while not driver.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.01)
        seconds = {"open, to readable text": time.monotonic() - start}
        time.sleep(3)  # a reader looks first
        start = time.monotonic()
        driver.execute_script("document.getElementById('t0').click()")
        while not driver.execute_script("return document.querySelector('.neighbours li') !== null"):
            time.sleep(0.01)
        seconds["first word's neighbours"] = time.monotonic() - start
        for name, script in (
            ("sort by gain", "const s = order; s.value = 'gain'; s.dispatchEvent(new Event('change'))"),
            ("move λ", "const s = lmbda; s.value = 0.5; s.dispatchEvent(new Event('input'))"),
        ):
            start = time.monotonic()
            driver.execute_script(script)
            seconds[name] = time.monotonic() - start
        return seconds
    finally:
        driver.quit()


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--megabytes", type=float, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        directory = write_retrieval(Path(room), args.tokens, args.rows, args.k)
        start = time.monotonic()
        write_report(ReportConfig(retrieval=str(directory), max_tokens=args.tokens, max_megabytes=args.megabytes))
        page = directory / "report.html"
        facts = json.loads(page.read_text(encoding="utf-8").split('id="facts">', 1)[1].split("</script>", 1)[0])
        print(f"| {args.tokens:,} tokens, k {args.k}, text of {args.rows:,} | |\n|---|---:|")
        print(f"| write, s | {time.monotonic() - start:.1f} |")
        print(f"| size, MB | {page.stat().st_size / 1e6:.1f} |")
        print(f"| tokens with neighbours | {facts['with_neighbours']:,} |")
        for name, seconds in (open_page(page, Path(room) / "profile") or {"(no browser)": 0.0}).items():
            print(f"| {name}, s | {seconds:.2f} |")


if __name__ == "__main__":
    main()
