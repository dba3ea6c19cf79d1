"""How a run goes on: checkpoints, manifests and exact resume."""
