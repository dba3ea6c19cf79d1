"""PixPro on BYOL's network: heads that keep the map, and what their cells are for."""

_base_ = []

gamma = 2  # sharpness of the propagation
transform_layers = 1  # of what is propagated
threshold = 0.7  # diagonals of a cell within which cells are a pair

pixel = dict(gamma=gamma, layers=transform_layers, threshold=threshold)
