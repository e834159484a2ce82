"""What fairseq has and is not here: flags that are accepted without effect, or refused; names of parts."""
