"""Programs that stand first on the PATH of the blocks in README and docs."""
