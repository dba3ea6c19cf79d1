"""BG_Swaps on MoCo, on the demo scenes: minutes on two CPU cores."""

_base_ = "bgremove_r18_demo.py"

background = "swap"

model = dict(type="BGSwaps", head=dict(type="ExtraNegativeSoftmax"))
