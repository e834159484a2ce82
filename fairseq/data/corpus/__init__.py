"""Texts as a model's own tokenizer has them: whole documents to ids, with where each token begins."""
