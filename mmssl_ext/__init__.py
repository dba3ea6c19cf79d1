"""Self-supervised pretraining for the OpenMMLab toolboxes."""

import warnings

from .moved import find_moved

__version__ = "0.2.0"

# What mmcv and mmdet say of things that nothing here has any need of: mmcv's
# compiled ops, a second implementation of COCO's metrics, an argument to come.
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformable", UserWarning)
warnings.filterwarnings("ignore", "faster_coco_eval is not installed", UserWarning)
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming", UserWarning)
# Configs are for machines with a GPU and for those without.
warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
find_moved()
