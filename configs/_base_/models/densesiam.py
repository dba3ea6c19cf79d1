"""DenseSiam: what the pixels and the regions of two views add to SimSiam."""

num_points = 7  # side of the lattice of common points
num_regions = 128
region_channels = 256  # of the regions' projector and predictor
pixel_weight = 1.0
region_weight = 0.1
region_temperature = 0.1

densesiam = dict(
    type="DenseSiam",
    pixel=dict(num_points=num_points, weight=pixel_weight),
    region=dict(
        num_points=num_points,
        num_regions=num_regions,
        hid_channels=region_channels,
        temperature=region_temperature,
        weight=region_weight,
    ),
)
