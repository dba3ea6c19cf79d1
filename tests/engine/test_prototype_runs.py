"""Whole runs with prototypes: frozen at first, a queue later, resumed to the bit."""

import pytest
import torch
from torch.nn.functional import normalize

from tests.engine.test_exact_resume import images, run_config
from tests.harness import Stopped, Watch, assert_same, log_text, make_runner, stop_at

__all__ = ["images"]
COSINE = dict(kind="cosine", start=0.75, end=2 / 3)
CONFIGS = {
    "SwAV": dict(queue_len=10, queue_start=2, frozen_epochs=1),
    "MIRA": dict(beta=COSINE, momentum=dict(kind="cosine", start=0.9, end=1)),
}


def config_of(method, images, work_dir):
    """Three epochs of four iterations of four images."""
    cfg = run_config(method, images, work_dir)
    cfg.model.update(CONFIGS[method])
    cfg.optim_wrapper.optimizer.update(momentum=0.9, weight_decay=0.1)
    return cfg


class Seen(list):
    """The prototypes and their momentum after every iteration, and the queue's use."""

    def __call__(self, runner):
        compare = runner.model.compare
        weight = compare.prototypes.weight
        state = runner.optim_wrapper.optimizer.state
        queue = getattr(compare, "counts_queue", lambda _: False)(runner.model)
        moved = "momentum_buffer" in state.get(weight, {})
        self.append((weight.detach().clone(), moved, queue))


@pytest.mark.parametrize("method", CONFIGS)
def test_frozen_then_trained_and_resumed_to_the_bit(images, tmp_path, method):
    seen = Seen()
    cfg = config_of(method, images, tmp_path / "a")
    straight = make_runner(cfg, Watch(after_train_iter=seen))
    first = normalize(straight.model.compare.prototypes.weight.detach()).clone()
    straight.train()
    cut = make_runner(config_of(method, images, tmp_path / "b"), stop_at(9))
    with pytest.raises(Stopped):
        cut.train()
    resumed = make_runner(config_of(method, images, tmp_path / "b"), resume=True)
    resumed.train()
    assert straight.iter == resumed.iter == 12
    assert_same(straight.model.state_dict(), resumed.model.state_dict())
    rows = [normalize(weight) for weight, _, _ in seen]
    for i in range(4):  # the first epoch: no gradient, momentum or decay
        torch.testing.assert_close(rows[i], rows[0])
        assert not seen[i][1]
        if method == "MIRA":  # which leaves their lengths alone, too
            assert torch.equal(seen[i][0], seen[0][0])
    assert (rows[4] - rows[3]).abs().max() > 1e-5 and seen[4][1]
    assert not torch.equal(rows[0], rows[11]) and first.shape == rows[0].shape
    used = [queue for _, _, queue in seen]
    assert used == 7 * [False] + 5 * [method == "SwAV"]
    assert "Prototypes in epoch 3: used" in log_text(resumed)
    warned = "12 prototypes are shared out among" in log_text(straight)
    assert warned == (method == "MIRA")
