"""Runs a script of calls on a dictionary and prints what they gave, as a last line of JSON.

Both Pythons run this file: ours, and that of fairseq 0.12.

python peer_dictionary_child.py DICT
"""

import io
import json
import sys
from pathlib import Path

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
    found.update(more_calls(path))
    return found


def more_calls(path: str) -> dict[str, object]:
    d = Dictionary.load(io.StringIO("the 3\ncat 2\n"))
    sentence, written, refused = d.dummy_sentence(6), io.StringIO(), ""
    d.add_from_file(io.StringIO("dog 5\n"))
    d.save(written)
    d.add_from_file(io.StringIO("cat 7 #fairseq:overwrite\n"))
    try:
        d.add_from_file(io.StringIO("dog 5\n"))
    except Exception as err:
        refused = str(err)
    text = Path(path).with_name("text.txt")
    text.write_text("c b a b\nthe c\n\n", encoding="utf-8")
    counted = Dictionary(bos="<s>", pad="<pad>", eos="</s>", unk="<unk>", extra_special_symbols=None)
    Dictionary.add_file_to_dictionary(str(text), counted, str.split, 1)
    Dictionary.add_file_to_dictionary(str(text), counted, str.split, 2)
    return {
        "special_words": [d.bos_word, d.pad_word, d.eos_word, d.unk_word],
        "specials": [d.bos_index, d.pad_index, d.eos_index, d.unk_index],
        "unk": [d.unk_string(), d.unk_string(True)],
        "dummy": [len(sentence), str(sentence.dtype), sentence[-1].item(), min(sentence[:-1].tolist()) > 3],
        "file": [d.symbols, d.count[4:], written.getvalue(), bool(refused)],
        "counted": [counted.symbols, counted.count[4:]],
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(calls(sys.argv[1])) + "\n")
