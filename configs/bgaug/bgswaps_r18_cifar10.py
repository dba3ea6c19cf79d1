"""BG_Swaps on MoCo, ResNet-18, CIFAR-10, 200 epochs, one GPU x 512 images."""

_base_ = "bgremove_r18_cifar10.py"

background = "random"
swaps = True

model = dict(type="BGSwaps", head=dict(type="ExtraNegativeSoftmax"))
