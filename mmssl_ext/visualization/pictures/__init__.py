"""Pictures: one file for each kind."""

KINDS = ("pca", "similarity", "matches", "neighbours", "embedding", "filters")
METHOD = "method"  # what the method itself does to its views, where it has something
