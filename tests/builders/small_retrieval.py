"""A small saved retrieval, written by NumPy and json alone, as docs/formats.md has it."""

import json
from pathlib import Path

import numpy as np

VOCABULARY, STORE_ROWS = 50, 400


def small_retrieval(directory: Path, tokens: int = 60, k: int = 16, seed: int = 0, **changes: object) -> dict:
    """Writes it, and returns its columns; ``hits`` as bool. Some tokens have few neighbours, some no hit, some none."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(STORE_ROWS)[:k] for _ in range(tokens)]).astype(np.int32)
    distances = np.sort(rng.gamma(4.0, 8.0, (tokens, k)), axis=1).astype(np.float32)
    hits = rng.random((tokens, k)) < rng.random((tokens, 1)) ** 2
    hits[:3] = False
    for row, there in ((3, k // 2), (4, 1), (5, 0)):
        ids[row, there:], distances[row, there:], hits[row, there:] = -1, np.inf, False
    distances[6] = np.float32(90000.0) + np.arange(k, dtype=np.float32)  # far off: exp(−d) is 0 in any format
    lm = np.log(rng.random(tokens) * 0.5 + 1e-4)
    columns = {
        "targets": rng.integers(4, VOCABULARY, tokens).astype(np.int32),
        "positions": np.arange(tokens) + 7,
        "blocks": (np.arange(tokens) // 8).astype(np.int32),
        "lm_log_prob": lm,
        "ids": ids,
        "distances": distances,
        "hits": np.packbits(hits, axis=1, bitorder="little"),
    }
    directory.mkdir(parents=True)
    for name, array in columns.items():
        np.save(directory / f"{name}.npy", array)
    loss = float(-lm.mean() / np.log(2))
    manifest = {
        "kind": "retrieval",
        "version": 1,
        "state": "done",
        "num_tokens": tokens,
        "k": k,
        "vocabulary_size": VOCABULARY,
        "split": "valid",
        "data": "data-bin/valid",
        "dictionary": "data-bin/dict.txt",
        "settings": {
            "probe": 8,
            "knn_sim_func": None,
            "metric": "l2",
            "drop_top1": False,
            "context_window": 4,
            "tokens_per_sample": 8,
            "sample_break_mode": "none",
        },
        "lmbda": 0.25,
        "knn_temp": 1.0,
        "lm": {"loss_base2": loss, "ppl": 2**loss},
        "mixture": {"loss_base2": loss, "ppl": 2**loss},
        "identity": {
            "weights_sha256": "w" * 64,
            "dictionary_sha256": "d" * 64,
            "data_sha256": f"{seed}" * 64,
            "store_id": "s" * 64,
            "index_sha256": "i" * 64,
        },
        "datastore": {"prefix": "dstore", "data": "data-bin/train", "context_window": 4, "first_position": 8},
        "files": {f"{name}.npy": {"bytes": (directory / f"{name}.npy").stat().st_size} for name in columns},
        **changes,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return {**columns, "hits": hits}
