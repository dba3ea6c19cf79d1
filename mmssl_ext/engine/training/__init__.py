"""What a model needs to know about its run."""
