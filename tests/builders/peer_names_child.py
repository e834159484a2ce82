"""Prints the names that fairseq 0.12's ``--arch``, ``--task``, … take, as JSON; its Python runs this file.

python tests/builders/peer_names_child.py > tests/config/foreign/peer_names.json
"""

import json
import sys

from fairseq.registry import REGISTRIES

from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

if __name__ == "__main__":
    options.get_training_parser()  # registers all that there is
    kinds = {f"--{kind.replace('_', '-')}": REGISTRIES[kind]["registry"] for kind in ("criterion", "optimizer")}
    names = {"--arch": ARCH_MODEL_REGISTRY, "--task": TASK_REGISTRY, **kinds}
    for kind in ("lr_scheduler", "tokenizer", "bpe"):
        names[f"--{kind.replace('_', '-')}"] = REGISTRIES[kind]["registry"]
    sys.stdout.write(json.dumps({flag: sorted(found) for flag, found in names.items()}, indent=1) + "\n")
