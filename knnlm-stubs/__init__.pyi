from fairseq.hub.huggingface.logits_processor import KNNLogitsProcessor as KNNLogitsProcessor
from fairseq.knn.neighbours.dstore import KNN_Dstore as KNN_Dstore
from fairseq.knn.neighbours.opening import KNN as KNN
from fairseq.knn.neighbours.opening import open_neighbours as open_neighbours

__all__: list[str]
