"""MoCHi: MoCo with mixtures of the hardest negatives, behind a warm-up.

The numbers are for 65,536 keys, of which a 64th is mixed.
"""

num_hardest = 1024  # N, keys that are mixed
num_mixed = num_hardest  # s, mixtures of two of them
num_with_query = num_hardest // 8  # s', mixtures with the query
warmup_epochs = 10  # of MoCo alone

mochi = dict(
    type="MoCHi",
    head=dict(
        type="MixedNegativesSoftmax",
        num_hardest=num_hardest,
        num_mixed=num_mixed,
        num_with_query=num_with_query,
        mixing=dict(kind="step", start=0, end=1, until=warmup_epochs, unit="epoch"),
    ),
)
