"""TKC: MoCo with earlier states of the key encoder as further teachers."""

num_teachers = 2  # h
interval = 10  # epochs between two copies, a twentieth of the training
form = "regression"  # of its loss; "base": InfoNCE over the queue
hidden = 512  # of the knowledge transformers
learn_weights = False  # of the teachers; otherwise all count alike
temporal_weight = 1.0  # alpha

tkc = dict(
    type="TKC",
    temporal=dict(
        num_teachers=num_teachers,
        interval=interval,
        form=form,
        hidden=hidden,
        learn_weights=learn_weights,
        weight=temporal_weight,
    ),
)
