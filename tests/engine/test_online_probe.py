"""The online probe learns, is resumed exactly, and leaves no trace in the training."""

import pytest
import torch

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.hooks import OnlineProbeHook
from mmssl_ext.errors import ConfigError, UserError
from tests.harness import (
    Stopped,
    assert_same,
    config,
    knn,
    loader,
    log_rows,
    make_runner,
    stop_at,
)

PROBE = {
    "type": "OnlineProbeHook",
    "dataset": {"labels": "subfolders"},
    "interval": 2,
}


def run(images, work_dir, *hooks, epochs=3, probe=PROBE, resume=False, **default):
    """A run of label-free images; returns what it ends with."""
    cfg = config(images, work_dir, epochs, **default)
    cfg.train_dataloader.dataset.labels = "none"
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.checkpoint.by_epoch = False
    cfg.custom_hooks = [probe] if probe else []
    runner = make_runner(cfg, *hooks, resume=resume)
    runner.train()
    return runner


def state(runner):
    return runner.model.state_dict(), runner.optim_wrapper.state_dict()


def probe_of(runner):
    (hook,) = (h for h in runner.hooks if isinstance(h, OnlineProbeHook))
    return hook


def test_training_is_bit_for_bit_the_same_with_it(images, tmp_path):
    heldout = PROBE | {"dataloader": loader(images)}
    ends = [
        run(images, tmp_path / name, probe=probe)
        for name, probe in (("none", None), ("probe", heldout))
    ]
    assert_same(state(ends[0]), state(ends[1]))
    generators = [end.model.training for end in ends]
    assert generators[0] == generators[1]
    assert not ends[1].model.backbone._forward_hooks
    rows = log_rows(ends[1])
    assert [row["epoch"] for row in rows if "probe/top1" in row] == [1, 2, 3]
    assert all("probe/loss" in row for row in rows if "loss" in row)


def test_a_resumed_run_goes_on_with_it_exactly(images, tmp_path):
    whole = run(images, tmp_path / "whole", knn=knn(images))
    with pytest.raises(Stopped):
        run(images, tmp_path / "parts", stop_at(7), knn=knn(images))
    saved = load_checkpoint_file(tmp_path / "parts" / "iter_6.pth")["online_probe"]
    assert saved["weight"].abs().sum() > 0 and saved["classes"] == ["class0", "class1"]
    parts = run(images, tmp_path / "parts", resume=True, knn=knn(images))
    assert_same(state(whole), state(parts))
    ours, theirs = probe_of(whole), probe_of(parts)
    assert_same(ours.probe.state_dict(), theirs.probe.state_dict())
    assert_same(ours.optimizer.state_dict(), theirs.optimizer.state_dict())
    ends = [
        [row["probe/top1"] for row in log_rows(end) if "probe/top1" in row][-1]
        for end in (whole, parts)
    ]
    assert ends[0] == ends[1]


def test_it_learns_as_a_plain_loop_does(images):
    """By hand, on the features that were handed in: W and b after three steps."""
    hook = OnlineProbeHook(optimizer={"type": "SGD", "lr": 0.5})
    hook.classes = ("a", "b", "c")
    features, labels = torch.randn(8, 5), torch.randint(3, (8,))
    x = features - features.mean(1, keepdim=True)
    x = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
    weight, bias = torch.zeros(3, 5), torch.zeros(3)
    with torch.no_grad():
        for _ in range(3):
            found, right = hook._descend(features, labels)
            logits = x @ weight.T + bias
            wanted = -logits.log_softmax(1)[range(8), labels].mean()
            torch.testing.assert_close(found, wanted)
            assert right.tolist() == (logits.argmax(1) == labels).tolist()
            error = logits.softmax(1) - torch.nn.functional.one_hot(labels, 3)
            weight -= 0.5 * error.T @ x / 8
            bias -= 0.5 * error.mean(0)
    torch.testing.assert_close(hook.probe.weight.detach(), weight)
    torch.testing.assert_close(hook.probe.bias.detach(), bias)


def test_what_it_takes_is_the_first_view_of_the_online_network(images, tmp_path):
    seen = []

    class Look(OnlineProbeHook):
        def _descend(self, features, labels):
            seen.append(features)
            return super()._descend(features, labels)

    runner = run(images, tmp_path, epochs=1, probe=None)
    hook = Look(dataset={"labels": "subfolders"})
    hook.before_train(runner)
    batch = next(iter(runner.train_dataloader))
    data = runner.model.data_preprocessor(batch, True)
    hook.before_train_iter(runner, 0)
    runner.model.train()
    runner.model(**data, mode="loss")
    hook.after_train_iter(runner, 0, batch)
    hook.after_train(runner)
    view = runner.model.prepare(data["inputs"][0])
    wanted = runner.model.backbone(view)[-1].mean((2, 3))
    torch.testing.assert_close(seen[0], wanted.detach())
    assert not seen[0].requires_grad


def test_refusals_and_other_classes(images, tmp_path):
    with pytest.raises(ConfigError, match="labels='subfolders'"):
        run(images, tmp_path / "a", probe={"type": "OnlineProbeHook"})
    changed = PROBE | {"dataset": {"labels": "subfolders", "max_images": 8}}
    with pytest.raises(ConfigError, match="OnlineProbeHook: its dataset has other"):
        run(images, tmp_path / "b", probe=changed)
    heldout = PROBE | {"dataloader": loader(images, labels="none")}
    with pytest.raises(ConfigError, match="dataloader has images without labels"):
        run(images, tmp_path / "c", epochs=1, probe=heldout)
    for option, message in (
        (
            {"optimizer": {"type": "SGD", "lr": -1}},
            "cannot be built: .*learning rate",
        ),
        ({"interval": 0}, "interval=0"),
    ):
        with pytest.raises(UserError, match=message):
            run(images, tmp_path / "o", epochs=1, probe=PROBE | option)
    # A run that began without it is resumed with one, which begins anew.
    run(images, tmp_path / "d", epochs=1, probe=None)
    runner = run(images, tmp_path / "d", epochs=2, resume=True)
    assert probe_of(runner).probe is not None
