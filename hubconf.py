"""Models for ``torch.hub.load``, by the names that fairseq published them under.

torch.hub.load("path/of/this/directory", "transformer_lm.wiki103.adaptive", source="local")
"""

from functools import partial as _partial

from fairseq.hub import from_pretrained
from fairseq.hub.files import PUBLISHED as _PUBLISHED

dependencies = ["faiss", "filelock", "msgspec", "numpy", "torch", "tqdm"]

for _name in _PUBLISHED:
    globals()[_name] = _partial(from_pretrained, _name)
