"""DSC on DenseCL: neighbours of cells, and classes by prototypes or by k-means."""

num_neighbours = 4
semantic_weight = 0.5  # of the loss of the classes ...
semantic_start = 20  # ... which is 0 for so many epochs
num_classes = 512  # prototypes or clusters
num_cells = 8  # of each image and view that are compared by clusters
num_kept = 65536  # cells that are clustered after each epoch

dsc = dict(type="DSC", dense=dict(num_neighbours=num_neighbours))
classes_count = dict(
    weight=dict(
        kind="step", start=0, end=semantic_weight, until=semantic_start, unit="epoch"
    )
)
prototypes = dict(type="CellPrototypes", num_prototypes=num_classes, **classes_count)
clusters = dict(
    type="CellClusters",
    num_clusters=num_classes,
    num_cells=num_cells,
    queue_len=num_kept,
    **classes_count,
)
