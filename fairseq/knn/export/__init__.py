"""The distribution of every row's neighbours, written for other programs to learn from."""
