"""What a criterion tells of its batches, under fairseq's names."""
