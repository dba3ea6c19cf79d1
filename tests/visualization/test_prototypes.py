"""Prototypes and their nearest images as a picture."""

import pytest
import torch

from mmssl_ext.datasets.transforms.geometry import CenterCrop, ResizeShort
from mmssl_ext.errors import ConfigError
from mmssl_ext.visualization.hooks.learned_pictures import LearnedPicturesHook
from mmssl_ext.visualization.pictures.prototypes import prototypes_of
from tests.harness import write_images
from tests.models.common import build

from .pictures import draw, subject, texts, write_config


def test_rows_of_the_nearest_images(tmp_path):
    write_images(tmp_path / "images", per_class=5)
    write_config(tmp_path, "SwAV")
    model = build("SwAV")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "SwAV.pth")
    given = subject(tmp_path, "SwAV", num=3)
    sheet = draw(given, "prototypes")
    found = " ".join(texts(sheet))
    images = len(given.dataset)
    assert f"nearest prototypes of {images} images are" in found
    assert sheet.axes.shape[1] == 6 and "Frames: the class that most" in found
    # The first row is the prototype of most images, with the highest cosines.
    rows = {}
    with torch.no_grad():
        steps = ResizeShort(given.crop), CenterCrop(given.crop)
        for i, image in given.tensors(range(images), *steps).items():
            view = given.model.data_preprocessor({"inputs": image[None]}, False)
            z = given.model(view["inputs"], mode="embed")["embedding"]
            z = torch.nn.functional.normalize(z)
            rows[i] = prototypes_of(given.model)(z)[0]
    own = torch.stack(list(rows.values())).argmax(1)
    most = own.mode().values.item()
    assert f"{(own == own.mode().values).sum()} image" in found
    if len(own.unique()) == len(own.bincount().unique()):
        assert f"prototype {most}:" in found


def test_methods_without_prototypes_have_no_such_picture(tmp_path):
    write_images(tmp_path / "images", per_class=5)
    write_config(tmp_path, "MoCo")
    torch.save({"state_dict": build("MoCo").state_dict()}, tmp_path / "MoCo.pth")
    given = subject(tmp_path, "MoCo")
    assert prototypes_of(given.model) is None
    with pytest.raises(ConfigError, match="MoCo has no prototypes; choose another"):
        draw(given, "prototypes")
    assert "prototypes" in LearnedPicturesHook().kinds
