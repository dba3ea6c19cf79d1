"""What a run shows: progress, kNN, collapse, speed and results."""
