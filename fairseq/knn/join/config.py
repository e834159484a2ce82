"""Flags of ``fairseq-knnlm join``; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Place, Prefix


@dataclass(frozen=True)
class JoinConfig:
    """What the jobs have written, all of one kind."""

    parts: tuple[Place, ...] = flag(
        dataclasses.MISSING,
        "results of the jobs (eval_SPLIT.shard-I-of-N.json, or their directory); the directory of --save-retrieval, or"
        " those of all jobs; the prefix of a datastore, or those of all jobs",
        positional=True,
    )
    results_path: Place | None = flag(None, "of results: also write the result to this directory or .json file")
    dstore_mmap: Prefix | None = flag(None, "of datastores: prefix of the whole one [default: the place of all ranges]")
    overwrite: bool = flag(False, "replace existing files, if this program wrote them")
