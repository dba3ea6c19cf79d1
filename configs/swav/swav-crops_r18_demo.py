"""SwAV with small crops on the demo scenes: minutes on two CPU cores."""

_base_ = "swav_r18_demo.py"

local_crops = 2
