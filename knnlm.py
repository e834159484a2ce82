"""kNN-LM: a datastore and its index as a memory beside the language model.

    neighbours = KNN_Dstore.open("checkpoints/dstore", "checkpoints/knn.index", k=1024, probe=32)
    log_p_N = neighbours.log_prob(queries_ND, target_N)        # float32, natural; −inf where no neighbour agrees
    distances_NK, ids_NK = neighbours.search(queries_ND)       # nearest first; smaller is nearer; −1 is none
    value_NK = neighbours.values(ids_NK)                       # the tokens that came next there

NumPy arrays or torch tensors go in, and the same kind comes out. ``KNN`` names a datastore and its weight, to be mixed
into a model by ``TransformerLanguageModel.from_pretrained(…, knn=KNN(…))``. ``open_neighbours`` opens what the flags of
a command name, one datastore or several.

Queries are the vectors that the datastore's keys are made of: the last layer's feed-forward input. The parts are in
``fairseq/knn``: datastore, index, search, neighbours. Source: Khandelwal et al., 2020.

Legend: N queries · K neighbours · D key width.
"""

import fairseq_knnlm

fairseq_knnlm.require_own_fairseq()

from fairseq.hub.huggingface.logits_processor import KNNLogitsProcessor  # noqa: E402
from fairseq.knn.neighbours.dstore import KNN_Dstore  # noqa: E402
from fairseq.knn.neighbours.opening import KNN, open_neighbours  # noqa: E402

__all__ = ["KNN", "KNNLogitsProcessor", "KNN_Dstore", "open_neighbours"]
