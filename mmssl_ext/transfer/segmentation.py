"""Makes mmseg usable; a segmentation config names this module in ``custom_imports``."""

from mmengine.config import utils

from mmssl_ext.imports import quietly

from . import ops

ops.install()  # mmseg does not import without mmcv's ops
# mmengine looks for a distribution named mmsegmentation, but the maintained build has
# another name; by the name of the package `_base_ = "mmseg::..."` works with both.
utils.MODULE2PACKAGE["mmseg"] = "mmseg"

# Their import fills the registries, so that types are found before anything is built.
with quietly():
    import mmseg.datasets
    import mmseg.engine
    import mmseg.evaluation
    import mmseg.models
    import mmseg.visualization  # noqa: F401
