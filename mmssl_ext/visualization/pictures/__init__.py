"""Pictures: one file for each kind."""

KINDS = ("pca", "similarity", "matches", "neighbours", "embedding", "filters")
PROTOTYPES = "prototypes"  # of methods that have some
LEARNED = (*KINDS, PROTOTYPES)  # all that a run draws at its end
METHOD = "method"  # what the method itself does to its views, where it has something
