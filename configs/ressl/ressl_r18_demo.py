"""ReSSL on the demo scenes: minutes on two CPU cores.

Differs from `ascl_r18_demo.py` by the comparison alone.
"""

_base_ = "../ascl/ascl_r18_demo.py"

tau_target = 0.04  # T_k; tau_ins is T_q

model = dict(
    type="ReSSL",
    head=dict(
        _delete_=True,
        type="RelationSoftmax",
        temperature=_base_.tau_ins,
        target_temperature=tau_target,
    ),
)
