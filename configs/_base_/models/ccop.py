"""CCOP on MoCo: objects by boxes, a feature pyramid, and noise that rises."""

fpn_channels = 256
hid_channels = 2048  # of the head on the boxes
copies = 10  # of a box of the key view, moved at random; one of them is the positive
max_boxes = 50  # of an image
min_visible = 0.6  # share of a box's area that both views must show more of ...
min_side = 12  # ... and the side, in pixels, of a square as large as what they show
limits = (12, 24, 48)  # sides of boxes, in cells of the finest map, for three levels

object_crop = dict(type="ObjectCrop", min_visible=min_visible)
place = dict(
    type="PlaceProposals",
    min_visible=min_visible,
    min_side=min_side,
    max_boxes=max_boxes,
)
fpn = dict(  # and `in_channels`, those of the backbone's stages
    type="mmdet.FPN",
    out_channels=fpn_channels,
    num_outs=4,
    norm_cfg=dict(type="BN", requires_grad=True),
)
objects = dict(hid_channels=hid_channels, copies=copies, limits=limits)
head_neck = dict(type="DropoutNeck", out_channels=128, dropout=0.1)
custom_imports = dict(imports=["mmssl_ext.transfer.detection"])  # for mmdet's FPN
