"""Self-supervised pretraining for the OpenMMLab toolboxes."""

import warnings

__version__ = "0.1.0"

# What mmcv says at import without its compiled ops: to install another mmcv, of which
# nothing here has any need.
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformable", UserWarning)
