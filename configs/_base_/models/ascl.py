"""ASCL: MoCo whose label holds the nearest keys of the queue, too."""

tau_target = 0.05  # T2, of the profile of the key
num_neighbours = 1  # n

ascl = dict(
    type="ASCL",
    head=dict(
        type="NeighbourSoftmax",
        target_temperature=tau_target,
        num_neighbours=num_neighbours,
    ),
)
