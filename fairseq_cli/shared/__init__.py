"""What several commands share: how one is run, and the settings that evaluating and generating have in common."""
