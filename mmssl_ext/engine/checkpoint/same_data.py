"""Whether a run that is resumed has the data that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmssl_ext.datasets.identity import VERSION, differences, identify
from mmssl_ext.engine.resilience.agreement import share
from mmssl_ext.unwrap import unwrap

META = "data"  # in the meta of a checkpoint
OPTION = "--allow-other-data (default_hooks.resume.allow_other_data=True)"


@dataclass(frozen=True)
class OtherData:
    """What the data of a checkpoint and of a run differ in.

    Attributes:
        text: The end of a sentence; empty where they are the same or not known.
        allowed: The run may go on nevertheless.
        known: Both say which data they have.
    """

    text: str = ""
    allowed: bool = False
    known: bool = True


SAME_DATA = OtherData()


def data_of(runner: Any) -> dict[str, Any] | None:
    """Return what identifies the training data; None where they do not tell."""
    # By name: mmpretrain's models take seconds to import, and transfers need none.
    kinds = {kind.__name__ for kind in type(unwrap(runner.model)).__mro__}
    labelled = "BaseSelfSupervisor" not in kinds
    return identify(runner.train_dataloader.dataset, labelled=labelled)


def compare_data(
    runner: Any, checkpoint: dict, allowed: bool
) -> tuple[OtherData, dict[str, Any] | None]:
    """Compare the data of a checkpoint with those of the run; rank 0 does it for all.

    Args:
        runner: That wants to go on from it.
        checkpoint: Its content.
        allowed: Other data are wanted.

    Returns:
        The difference, and on rank 0 what identifies the data now.
    """
    now: list[dict[str, Any] | None] = [None]

    def judge() -> OtherData:
        now[0] = data_of(runner)
        before = checkpoint["meta"].get(META)
        if now[0] is None or before is None or before.get("version") != VERSION:
            return OtherData("", allowed, now[0] is None)
        text, missing = differences(before, now[0])
        skips = getattr(runner.train_dataloader.dataset, "on_error", None) == "skip"
        return OtherData(text, allowed or (missing and skips))

    return share(judge), now[0]
