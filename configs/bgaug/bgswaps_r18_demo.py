"""BG_Swaps on MoCo, on the demo scenes: minutes on two CPU cores."""

_base_ = "bgremove_r18_demo.py"

background = "random"
swaps = True

model = dict(type="BGSwaps", head=dict(type="ExtraNegativeSoftmax"))
