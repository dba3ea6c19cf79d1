"""The backbones that have a name, and what each needs.

``table`` has a row for each family, ``named`` makes what configs take of a name,
``timm`` asks timm for its own. No import here needs torch, but for a name of timm.
"""

from .backbone import Backbone
from .named import backbone_named, network
from .table import FAMILIES, Family

__all__ = ["FAMILIES", "Backbone", "Family", "backbone_named", "network"]
