"""Pictures: one file for each kind."""

KINDS = ("pca", "similarity", "matches", "neighbours", "embedding", "filters")
PROTOTYPES = "prototypes"  # of methods that have some
METHOD = "method"  # what the method itself does to its views, where it has something
