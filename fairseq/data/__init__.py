"""Text as token ids: dictionary, binarised files, blocks, context windows and batches. NumPy, but for a tensor or two.

Names that scripts written for fairseq import from here are loaded when they are asked for.
"""

from typing import TYPE_CHECKING, Any

from fairseq.config.registry import load
from fairseq.plugins.foreign_names import not_here

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary as Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDataset as MMapIndexedDataset

_NAMES = {
    "Dictionary": "fairseq.data.dictionary:Dictionary",
    "MMapIndexedDataset": "fairseq.data.indexed_dataset:MMapIndexedDataset",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        return not_here(__name__, name)
    return load(_NAMES[name])
