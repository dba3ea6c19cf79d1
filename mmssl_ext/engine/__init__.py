"""What happens in a run: config, checkpoints, resilience, monitoring."""
