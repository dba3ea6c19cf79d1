"""MSF: BYOL's projector and predictor in MSF's widths, and a bank of targets.

A query sees all changes of the recipe, its target a crop and a flip alone (the paper's
"weak/strong"), where the config says `weak_target = True`.
"""

_base_ = ["byol.py"]

momentum = 0.99  # share of the target network that each step keeps
bank_len = 128_000  # rows of the bank; at most half of the images
topk = 5  # neighbours, the target itself among them
bank_dtype = "float16"  # or "float32"
sync_bn = None  # statistics of a GPU; the target's images are shuffled among them

last_bias = dict(with_last_bias=True)
msf = dict(
    type="MSF",
    predictor=dict(_base_.byol["predictor"], **last_bias),
    bank_len=bank_len,
    topk=topk,
    bank_dtype=bank_dtype,
    momentum=momentum,
)
