"""Background augmentations: where masks come from, and how often views change."""

background = "remove"  # or "random": of another image
swaps = False  # a third view, for the model of bgswaps_*.py
masks = "border"  # without labels; or a folder of masks, or a COCO file
missing_masks = "raise"  # or "keep": an image without mask keeps its background
background_prob = 0.2  # of a view

mask = dict(type="LoadMask", masks=masks, missing=missing_masks)
change = dict(
    type="RandomBackground",
    mode=background,
    prob=background_prob,
)
