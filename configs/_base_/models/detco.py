"""DetCo on MoCo: an embedding per stage, of the whole view and of its patches."""

level_weights = (0.1, 0.4, 0.7, 1.0)  # of res2, res3, res4, res5
hid_channels = None  # hidden width of the heads; None: the channels of each stage
patch_source = 255  # px: the crop that is cut into 3 x 3 cells ...
patch_size = 64  # ... of which each gives a patch of this side

level_neck = dict(  # and `in_channels`, those of the stages
    type="MultiLevelNeck", hid_channels=hid_channels, out_channels=128, num_patches=9
)
level_head = dict(type="MultiLevelSoftmax", level_weights=level_weights)
patch_crop = dict(type="RandomResizedCrop", size=patch_source, scale=(0.6, 1.0))
cut = dict(type="CutPatches", size=patch_size, grid=3)
