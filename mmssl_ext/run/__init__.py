"""From a command to a run, its evaluation and its messages."""
