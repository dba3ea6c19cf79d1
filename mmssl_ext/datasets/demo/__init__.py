"""Demo data: drawn scenes of textured objects in four dataset layouts.

``python -m mmssl_ext.datasets.demo --out DIR`` writes below ``DIR``::

    imagenet/{train,test}/<class>/*.jpg
    VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets,Segmentation...}/
    coco/{annotations,train2017,val2017}/
    cityscapes/{leftImg8bit,gtFine,annotations}/
    demo.json

The test scenes are ``test`` and ``val`` of VOC and ``val`` of COCO and Cityscapes.
"""

from .build import make_demo
from .scenes import Scene, SceneObject, draw_scene
from .shapes import CLASSES

__all__ = ["CLASSES", "Scene", "SceneObject", "draw_scene", "make_demo"]
