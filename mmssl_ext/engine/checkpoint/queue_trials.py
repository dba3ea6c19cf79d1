"""How the softmax over a queue is computed goes with a run, where a trial chose it.

See :mod:`mmssl_ext.models.losses.queue_forms`. Importing that takes seconds, as it
imports mmpretrain's models, and a run without a queue has no use for it.
"""

from __future__ import annotations

import sys


def queue_forms() -> dict[str, str]:
    """What trials of this process chose; nothing where no queue has been used."""
    forms = sys.modules.get("mmssl_ext.models.losses.queue_forms")
    return {} if forms is None else forms.trials()


def take_over_queue_forms(chosen: dict[str, str]) -> None:
    """Go on by the trials of the run that is resumed."""
    if chosen:
        from mmssl_ext.models.losses.queue_forms import take_over

        take_over(chosen)
