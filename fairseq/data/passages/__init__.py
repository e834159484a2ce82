"""Split texts as people read them: passages, lines and documents."""
