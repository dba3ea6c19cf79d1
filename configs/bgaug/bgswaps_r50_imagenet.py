"""BG_Swaps on MoCo v2, ResNet-50, ImageNet, 8 GPUs x 32 (arXiv 2103.12719)."""

_base_ = "bgremove_r50_imagenet.py"

background = "random"
swaps = True

model = dict(type="BGSwaps", head=dict(type="ExtraNegativeSoftmax"))
