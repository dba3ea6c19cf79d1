"""What pretraining shares on any data: changes of the views and loaders, by variables.

The values are those of MoCo v2 on ImageNet; each data set has its own.
"""

batch_size = 32  # per GPU
num_workers = 8
augment_on = "device"  # only decode and crop on the loader's CPU cores; "worker": all
image_size = 224
crop_scale = (0.2, 1.0)  # share of the image's area
interpolation = "bilinear"  # of the crops, or "bicubic"
weak_target = False  # True: the second view is cropped and mirrored alone
jitter = (0.4, 0.4, 0.4, 0.1)  # of brightness, contrast, saturation, hue
bands = None  # None: 8-bit RGB; 5: images of five bands; [3, 2, 1]: these, from 0
value_range = None  # (low, high) of the files' values, or of each band: 0 and 255
mean = [123.675, 116.28, 103.53]  # of each band; `mmssl-ext stats FOLDER` prints it
std = [58.395, 57.12, 57.375]

read_as = {} if bands is None else dict(bands=bands, value_range=value_range)
decoder = dict(type="DecodeBands", **read_as) if read_as else dict(type="DecodeImage")
bands_in = (  # of a backbone
    dict(in_channels=bands if isinstance(bands, int) else len(bands)) if read_as else {}
)

resize = {} if interpolation == "bilinear" else dict(interpolation=interpolation)
crop = dict(type="RandomResizedCrop", size=image_size, scale=crop_scale, **resize)
color_jitter = dict(
    type="ColorJitter",
    brightness=jitter[0],
    contrast=jitter[1],
    saturation=jitter[2],
    hue=jitter[3],
    prob=0.8,
)
gray = dict(type="RandomGrayscale", prob=0.2)
blur = dict(type="GaussianBlur", sigma_range=(0.1, 2.0), prob=0.5)
flip = dict(type="RandomFlip", prob=0.5)
weak_view = [crop, flip]

train_loader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
)
knn_loader = dict(
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
