"""Two terms on the similarities in a batch, inspired by XMoCo: all values are ours."""

cross_consistency = 10  # a, its weight behind the warm-up
cross_uniformity = 0.01  # b
warmup_epochs = 5

xmoco = dict(
    terms=[dict(type="CrossConsistency"), dict(type="CrossUniformity")],
    weights=dict(
        cross_consistency=dict(
            kind="linear",
            start=0,
            end=cross_consistency,
            until=warmup_epochs,
            unit="epoch",
        ),
        cross_uniformity=cross_uniformity,
    ),
)
