"""Prints the names and shapes of the weights of fairseq 0.12's models; its Python runs this file, ours does not.

python peer_shapes.py ARCH …        → a last line with {arch: {name: shape}}, of 64 ids and 64 tokens a block
"""

import json
import sys

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq import options
from fairseq.data import Dictionary
from fairseq.tasks.language_modeling import LanguageModelingTask


def shapes(arch: str) -> dict[str, list[int]]:
    dictionary = Dictionary()
    for number in range(60):
        dictionary.add_symbol(f"w{number}")
    words = ["data", "--task", "language_modeling", "--arch", arch, "--tokens-per-sample", "64"]
    if "wiki103" in arch:  # the preset's cutoffs are beyond 64 ids
        words += ["--adaptive-softmax-cutoff", "10,30", "--adaptive-input-cutoff", "10,30"]
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    with torch.device("meta"):
        model = LanguageModelingTask(config.task, dictionary, dictionary).build_model(config.model)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps({arch: shapes(arch) for arch in sys.argv[1:]}) + "\n")
