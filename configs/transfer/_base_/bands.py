"""How images are read: 8-bit RGB, or any number of bands in any depth, by variables.

Set them as in the pretraining; `mmssl-ext stats FOLDER` prints all four.
"""

bands = None  # None: 8-bit RGB; 5: images of five bands; [3, 2, 1]: these, from 0
value_range = None  # (low, high) of the files' values, or of each band: 0 and 255
mean = None  # of each band, in units of 0 to 255; those of RGB stand in pretrained.py
std = None

read_as = {} if bands is None else dict(bands=bands, value_range=value_range)
load = (  # the first step of a pipeline of the toolboxes
    dict(type="mmssl_ext.LoadBands", **read_as)
    if read_as
    else dict(type="LoadImageFromFile")
)
as_bands = dict(mean=mean, std=std, **read_as) if read_as else {}  # of a preprocessor
bands_in = (  # of a backbone
    dict(in_channels=bands if isinstance(bands, int) else len(bands)) if read_as else {}
)
