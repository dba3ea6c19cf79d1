"""Self-supervised pretraining for the OpenMMLab toolboxes."""

import warnings

__version__ = "0.2.0"

# What mmcv and mmdet say at import of things that nothing here has any need of: mmcv's
# compiled ops, and a second implementation of COCO's metrics.
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformable", UserWarning)
warnings.filterwarnings("ignore", "faster_coco_eval is not installed", UserWarning)
