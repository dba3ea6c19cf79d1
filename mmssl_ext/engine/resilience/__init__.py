"""What a run survives: signals, dead workers, lost ranks, bad files."""
