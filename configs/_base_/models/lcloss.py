"""LC-loss: points in the overlap of two views, a term for BYOL, MoCo or SimSiam."""

local_points = 7  # side of the lattice of points
local_channels = 256  # of a point, where the base's embedding is wider
local_weight = 1.0

lcloss = dict(type="LocalContrast", points=local_points, weight=local_weight)
