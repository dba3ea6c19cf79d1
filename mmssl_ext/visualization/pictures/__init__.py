"""Pictures: one file for each kind."""

METHOD = "method"  # what a method does to its views
KINDS = ("pca", "similarity", "matches", "neighbours", "embedding", "filters")
