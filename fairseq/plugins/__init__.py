"""Plugins: how ``--user-dir`` is imported, and what those written for fairseq need that ours do not."""
