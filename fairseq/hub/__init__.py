"""A trained language model in Python: load it, score and continue texts, see which rows of a datastore are near.

    from fairseq.models.transformer_lm import TransformerLanguageModel
    from knnlm import KNN

    knn = KNN("checkpoints/dstore", "checkpoints/knn.index", k=64, lmbda=0.25)
    lm = TransformerLanguageModel.from_pretrained("checkpoints", "checkpoint_best.pt", "data-bin", knn=knn)
    lm.score("a text").perplexity
    lm.neighbours("a text", k=4)
    lm.sample("a text", sampling=True, sampling_topk=10, max_len_b=20)

``from_pretrained`` of this package is the same function, with its types.
"""

from fairseq.hub.model import LanguageModelHub as LanguageModelHub
from fairseq.hub.pretrained import from_pretrained as from_pretrained
from fairseq.hub.records import Neighbour as Neighbour
from fairseq.hub.records import Neighbourhood as Neighbourhood
from fairseq.hub.records import Score as Score
