"""Batch, queue, length and rate of a pretraining, from the images and the device.

The rules follow what is published on small sets (lightly-train's values, HPT, issues of
MoCo and DINO): what counts is the number of iterations, not of epochs; a queue must be
small against the images; continuing from weights wants a tenth of the iterations and a
lower rate. They are a reading of these sources, not results of this package.

No import here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict

from mmssl_ext.backbones import Backbone
from mmssl_ext.errors import UserTypeError, UserValueError
from mmssl_ext.text import closest, cut

from .methods import Recipe

STEPS = 2000  # at least, from random weights
_FEWEST = 8  # images that two batches can be made of
_QUEUE = 65536
_BANK = 128_000
_BATCH = {"cpu": 64, "cuda": 256}
_SIZE = {"cpu": 96, "cuda": 224}


class Given(TypedDict, total=False):
    """What a user may set; the rest follows.

    Attributes:
        epochs: Length in passes over the images.
        steps: Length in batches, in place of ``epochs``.
        batch_size: Images per step.
        image_size: Side of a view in pixels.
        lr: Learning rate for this batch.
        queue_len: Keys of the queue, where the method has one.
        num_workers: Processes that read images.
    """

    epochs: int | None
    steps: int | None
    batch_size: int | None
    image_size: int | None
    lr: float | None
    queue_len: int | None
    num_workers: int | None


def check_names(given: Iterable[str]) -> None:
    """Refuse settings of other names.

    Raises:
        UserTypeError: There is one.
    """
    for name in given:
        if name not in Given.__annotations__:
            known = ", ".join(Given.__annotations__)
            raise UserTypeError(
                f"pretrain has no '{name}'.{closest(name, Given.__annotations__)} Its "
                f"settings are {known}."
            )


@dataclass(frozen=True)
class Images:
    """What is known of the images: how many, and the median of their short sides."""

    count: int
    short_side: int | None = None


@dataclass(frozen=True)
class Device:
    """Where the run will take place.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        memory: In GiB, what is free of it.
        cores: That this process may use.
    """

    kind: str
    memory: float
    cores: int


@dataclass(frozen=True)
class Setting:
    """A variable of the config, its value, and why it has that."""

    name: str
    value: Any
    reason: str

    def line(self) -> str:
        """An assignment with its reason."""
        return f"{self.name} = {self.value!r}  # {self.reason}"


def choose(
    images: Images,
    device: Device,
    recipe: Recipe,
    backbone: Backbone,
    continued: bool,
    given: Mapping[str, Any],
) -> list[Setting]:
    """Settle every setting of a run.

    Args:
        images: What it is trained on.
        device: Where.
        recipe: Of the method.
        backbone: Of the network.
        continued: It starts from given weights, not from random ones.
        given: Values that the user has set, by the names of :class:`Given`.

    Returns:
        Settings in the order of a config; values are plain.

    Raises:
        UserValueError: There are too few images, or a value cannot be used.
    """
    if images.count < _FEWEST:
        raise UserValueError(
            f"{images.count} images are too few to pretrain on; give {_FEWEST} at "
            "the very least, and some hundred for a use."
        )
    told = {
        name: _plain(name, given[name])
        for name in Given.__annotations__
        if given.get(name) is not None
    }
    if "queue_len" in told and not recipe.queue:
        raise UserValueError(
            f"{recipe.title} has no queue; leave queue_len={told['queue_len']} out, or "
            "take a method that has one, e.g. 'mocov2'."
        )
    return list(_Choice(images, device, recipe, backbone, continued, told).all())


@dataclass(frozen=True)
class _Choice:
    images: Images
    device: Device
    recipe: Recipe
    backbone: Backbone
    continued: bool
    given: Mapping[str, Any]

    def all(self) -> Iterator[Setting]:
        """The settings; each follows from those before it."""
        size = self.one("image_size", *self._image_size())
        if size.value < (cell := self.backbone.stride):
            raise UserValueError(
                f"image_size={size.value} is less than {cell}, the pixels that one "
                f"cell of {self.backbone.title}'s last map stands for; take {cell} or "
                "more."
            )
        yield size
        batch = self.one("batch_size", *self._batch_size(size.value))
        if batch.value > self.images.count:
            raise UserValueError(
                f"batch_size={batch.value} is more than the {self.images.count} "
                "images; an epoch would have no step."
            )
        yield batch
        per_epoch = self.images.count // batch.value
        yield self._epochs(per_epoch)
        yield self._rate(batch.value)
        yield Setting("lr_batch", batch.value, "the batch that lr is for")
        if self.recipe.queue:
            yield self.one("queue_len", *self._queue(batch.value))
        if self.recipe.bank:
            yield Setting("bank_len", *self._bank(batch.value))
        remembers = self.recipe.queue or self.recipe.bank
        if remembers and not self.backbone.family.adamw:  # which have no BatchNorm
            yield Setting("bn_splits", *_splits(batch.value))
        workers = max(1, min(8, self.device.cores - 1))
        reason = f"of {self.device.cores} processors, one is left to the training"
        yield self.one("num_workers", workers, reason)

    def one(self, name: str, value: Any, reason: str) -> Setting:
        """The user's value, or that of the rule."""
        if name in self.given:
            return Setting(name, self.given[name], "as told")
        return Setting(name, value, reason)

    def _image_size(self) -> tuple[int, str]:
        size = _SIZE[self.device.kind]
        where = "a GPU" if self.device.kind == "cuda" else "a CPU"
        side = self.images.short_side
        if side is not None and side < size:
            small = max(32, side // 32 * 32)
            return small, f"px; the images' short side is {side} px (median)"
        return size, f"px, usual on {where}"

    def _batch_size(self, size: int) -> tuple[int, str]:
        most = _BATCH[self.device.kind]
        quarter = self.images.count // 4
        half = 0.5 if self.device.kind == "cuda" else 1.0  # bfloat16
        need = half * self.recipe.views * self.backbone.memory(size)
        room = max(2, int(0.6 * self.device.memory / need))
        batch = _power_below(min(most, quarter, room))
        for few, least in ((16, 3), (8, 2), (4, 2)):  # steps of an epoch
            if batch < few <= min(room, self.images.count // least):
                return few, f"of {self.images.count} images; BatchNorm wants no fewer"
        if room < min(most, quarter):
            return batch, f"about {need * batch:.1f} GiB of {self.device.memory:.0f}"
        if quarter < most:
            return batch, f"at most a quarter of {self.images.count:,} images"
        return batch, "of images per step"

    def _epochs(self, per_epoch: int) -> Setting:
        if {"epochs", "steps"} <= set(self.given):
            raise UserValueError("Give epochs or steps, not both.")
        if "epochs" in self.given:
            epochs = self.given["epochs"]
            return Setting("max_epochs", epochs, f"as told: {epochs * per_epoch} steps")
        if "steps" in self.given:
            steps, reason = self.given["steps"], "as told"
        else:
            steps, reason = self._steps(per_epoch)
        epochs = max(1, math.ceil(steps / per_epoch))
        count = f"{epochs * per_epoch:,} steps, {per_epoch:,} an epoch"
        return Setting("max_epochs", epochs, f"{count}: {reason}")

    def _steps(self, per_epoch: int) -> tuple[int, str]:
        count = self.images.count
        few = max(STEPS, 20 * per_epoch)
        if self.continued and not self.recipe.teaches:
            steps = min(50_000, max(500, count))
            if self.device.kind == "cpu" and steps > few:
                return few, "as from random weights, the most on a CPU"
            return steps, "about one for each image, from given weights"
        if self.recipe.teaches or self.device.kind == "cpu":
            return few, "2,000 steps or 20 epochs, what is more"
        most = max(100_000, 200 * per_epoch)
        steps = min(max(STEPS, 800 * per_epoch), most)
        if steps == STEPS:
            return steps, "the fewest from random weights"
        return steps, "800 epochs; where that is long, 100,000 steps or 200 epochs"

    def _rate(self, batch: int) -> Setting:
        """Of SGD by the method, of AdamW by the backbone."""
        factor, why = self._rate_factor()
        adamw = self.backbone.family.adamw
        usual = adamw[0] if adamw else self.recipe.rate
        reason = f"{usual:g} x {batch}/256{why}" + ", AdamW" * bool(adamw)
        found = self.one("lr", float(f"{usual * factor * batch / 256:.3g}"), reason)
        return Setting("adamw_lr", found.value, found.reason) if adamw else found

    def _rate_factor(self) -> tuple[float, str]:
        if not self.continued:
            return 1.0, ""
        if self.images.count < 500:
            return 0.1, " x 0.1, from given weights"
        if self.images.count < 10_000:
            return 1 / 3, " / 3, from given weights"
        return 1.0, ", from given weights on many images"

    def _queue(self, batch: int) -> tuple[int, str]:
        quarter = _power_below(self.images.count // 4)
        if quarter >= _QUEUE:
            return _QUEUE, "as for ImageNet"
        length = max(batch, quarter)
        return length, f"about a quarter of {self.images.count:,} images"

    def _bank(self, batch: int) -> tuple[int, str]:
        half = self.images.count // 2
        if half >= _BANK:
            return _BANK, "as for ImageNet"
        return max(batch, half), f"half of {self.images.count:,} images"


def _splits(batch: int) -> tuple[int, str]:
    """Groups of the batch with statistics of their own, against BatchNorm's leak."""
    number = max(2, batch // 32)
    while batch % number:
        number -= 1
    return number, f"groups of {batch // number} with BatchNorm statistics of their own"


def _power_below(number: int) -> int:
    """The largest power of two that is no more, at least 1."""
    return 1 << max(0, max(1, number).bit_length() - 1)


def _plain(name: str, value: Any) -> float:
    """A value as a plain number, as which it stands in the recipe; True is none."""
    rate, least = name == "lr", 0 if name == "num_workers" else 1
    fits = isinstance(value, Real if rate else Integral)
    fits = fits and not isinstance(value, bool)
    if rate and fits and 0 < value < 1e30:  # finite in float32, too
        return float(value)
    if not rate and fits and value >= least:
        return int(value)
    wanted = "a positive number" if rate else f"a whole number, {least} or more"
    raise UserValueError(f"{name}={cut(repr(value))} must be {wanted}.")
