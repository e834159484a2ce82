"""Runs a script of calls on a dictionary and prints what they gave, as a last line of JSON.

Both Pythons run this file: ours, and that of fairseq 0.12.

python peer_dictionary_child.py DICT
"""

import json
import sys

import torch

from fairseq.data import Dictionary


def calls(path: str) -> dict[str, object]:
    d, seen = Dictionary.load(path), []
    found: dict[str, object] = {
        "ids": [d.bos(), d.pad(), d.eos(), d.unk(), d.nspecial, len(d)],
        "index": [d.index("the"), d.index("elephant"), d[5], "the" in d, "elephant" in d],
        "tables": [d.symbols, d.count[4:], d.indices],
    }
    for name, more in {
        "words": {},
        "open": {"append_eos": False},
        "reversed": {"reverse_order": True},
        "letters": {"line_tokenizer": list},
        "told": {"consumer": lambda word, idx: seen.append([word, idx])},
    }.items():
        ids = d.encode_line(" the cat  saw an elephant <unk>\n", add_if_not_exist=False, **more)
        found[name] = [ids.tolist(), str(ids.dtype)]
    found["seen"] = list(seen)
    tokens = torch.tensor([0, 4, 3, 5, 2])
    found["strings"] = [
        d.string(tokens),
        d.string(torch.stack([tokens, tokens])),
        d.string(tokens, escape_unk=True),
        d.string(tokens, unk_string="?"),
        d.string(tokens, include_eos=True),
        d.string(tokens, extra_symbols_to_ignore={5}),
        d.string(tokens, separator="_"),
    ]
    pieces = Dictionary()
    found["new"] = [pieces.add_symbol(word) for word in ("lo@@", "w", "\u2581new", "er", "w")]
    found["joined"] = [pieces.string([4, 5, 6, 7], "@@ "), pieces.string([4, 5, 6, 7], "sentencepiece")]
    found["added"] = pieces.encode_line("w x").tolist()
    pieces.update(d)
    found["updated"] = [pieces.symbols, pieces.count[4:], pieces == d, pieces == pieces]
    found["again"] = pieces.add_symbol("w", n=7, overwrite=True)
    made = Dictionary()
    for word in ["c", "a", "b", "a", "c", "a", "d"]:
        made.add_symbol(word)
    made.finalize(threshold=2, padding_factor=8)
    found["finalized"] = [made.symbols, made.count[4:]]
    return found


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(calls(sys.argv[1])) + "\n")
