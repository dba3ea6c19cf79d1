"""RegionCL: which region of a view is pasted, and the weight of its loss."""

cells = (2, 3)  # sides of a region, of 4 cells of the last stage
stride = 32  # pixels per cell
region_weight = 1.0

regions = dict(region=dict(cells=cells, stride=stride), region_weight=region_weight)
