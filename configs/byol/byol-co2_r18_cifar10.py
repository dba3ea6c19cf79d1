"""CO2's consistency term on BYOL, CIFAR-10: a term on another base.

BYOL has no queue, so the term keeps one of its own. Temperature and weight are those of
CO2 on MoCo v2; no paper says what suits BYOL. Minutes on CPU cores: `cpu=True`.
"""

_base_ = "byol_r18_cifar10.py"

alpha = 0.3  # weight of the consistency term
tau_con = 0.05
queue_len = 4096

model = dict(
    terms=[dict(type="Consistency", temperature=tau_con, queue_len=queue_len)],
    weights=dict(consistency=alpha),
)
