"""Small crops behind the two views, by variables (multi-crop, arXiv 2006.09882).

`local_crops = 6` gives every image six of them, changed as the two views are;
`three_recipes = True` gives the first view, the second and the small ones a recipe of
their own, as BYOL and DINO do. The model has to know: `pairs=dict(locals=local_crops)`.
"""

_base_ = "two_views.py"

local_crops = 0  # of each image
local_size = 96
local_scale = (0.05, 0.14)  # share of the image's area; up to the least of `crop_scale`
three_recipes = False
recipe_blur = True  # False: the three differ in solarisation alone

local_crop = dict(_base_.crop, size=local_size, scale=local_scale)
changes = [_base_.color_jitter, _base_.gray]
blurs = [[dict(_base_.blur, prob=p)] if recipe_blur else [] for p in (1.0, 0.1, 0.5)]
solarize = dict(type="RandomSolarize", threshold=128, prob=0.2)
recipes = [
    [_base_.crop, *changes, *blurs[0], _base_.flip],
    [_base_.crop, *changes, *blurs[1], solarize, _base_.flip],
    [local_crop, *changes, *blurs[2], _base_.flip],
]
