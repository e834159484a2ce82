"""Generation: texts continued token by token, by beam search or at random."""
