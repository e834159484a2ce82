"""Word vectors and projections, with their initial values."""

from torch import nn

PADDING_IDX = 1


def word_vectors(count: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """Returns word vectors, drawn with variance 1/width; row 1 is zero, and row ``padding_idx`` gets no gradient."""
    words = nn.Embedding(count, width, padding_idx=padding_idx)
    nn.init.normal_(words.weight, std=width**-0.5)
    nn.init.zeros_(words.weight[PADDING_IDX : PADDING_IDX + 1])
    return words


def projection(inputs: int, outputs: int) -> nn.Linear:
    """Returns a linear layer without bias, with Glorot's uniform weights."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer
