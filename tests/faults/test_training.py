"""Faults of the training itself: R14, R15, R21, R26, R27."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.hooks import Hook

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.errors import NonFiniteLossError
from mmssl_ext.models.layers import unit
from mmssl_ext.models.memory import KeyQueue
from tests.distributed import run_ranks
from tests.faults.ranks import enqueue_near_the_end
from tests.harness import config, log_rows, log_text, make_runner, write_images
from tests.models.common import build, encode_key, views


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


# --- R14


class ExplodingGradient(Hook):
    """An infinite gradient at one step: the loss is NaN from the next one on."""

    priority = "VERY_HIGH"

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.steps = runner.iter + 1
        if runner.iter == self.at + 1:
            self.paths = [s.img_path for s in data_batch["data_samples"]]
        weight = runner.model.backbone.conv1.weight
        if runner.iter == self.at:
            weight.register_hook(lambda grad: grad * float("inf"))


@pytest.mark.fault("R14")
@pytest.mark.parametrize("at", [4, 6, 7])
def test_a_diverging_run_stops_and_spares_the_checkpoint(images, tmp_path, at):
    """Through the weights, as a learning rate that is too high does it."""
    interval = 3
    guard = {"type": "NonFiniteGuardHook", "interval": interval}
    fault = ExplodingGradient(at)
    runner = make_runner(config(images, tmp_path, epochs=3, guard=guard), fault)
    with pytest.raises(NonFiniteLossError) as caught:
        runner.train()
    assert fault.steps <= at + 1 + interval
    # Four steps an epoch: the first checkpoint is before the fault, the second after.
    good = tmp_path / "epoch_1.pth"
    assert sorted(tmp_path.glob("*.pth")) == [good]
    state = load_checkpoint_file(good)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert (tmp_path / "last_checkpoint").read_text().strip() == str(good)
    if at + 1 < 8:  # a step of the same epoch shows it; else the weights do
        assert f"at iteration {at + 2} " in str(caught.value)
        assert fault.paths[0] in log_text(runner)
    else:
        assert "Weights are not finite" in log_text(runner)


# --- R15


class ConstantEmbeddings(Hook):
    """Both encoders give the same vector for every image."""

    def before_train(self, runner):
        for neck in (runner.model.neck, runner.model.target.neck):
            neck.register_forward_hook(lambda module, inputs, out: constant(out))


def constant(out):
    if isinstance(out, (tuple, list)):
        return type(out)(constant(part) for part in out)
    return out * 0 + 1


@pytest.mark.fault("R15")
def test_constant_embeddings_in_a_run_are_told(tmp_path):
    """The queue fills with the one vector; from then on the loss is ln(K + 1)."""
    images = write_images(
        tmp_path / "images", per_class=40
    )  # 20 steps an epoch, K = 64
    monitor = {"type": "CollapseMonitorHook", "interval": 2}
    cfg = config(images, tmp_path / "run", epochs=2, collapse=monitor)
    runner = make_runner(cfg, ConstantEmbeddings())
    runner.train()
    losses = [row["loss"] for row in log_rows(runner) if "loss" in row]
    assert losses[-1] == pytest.approx(math.log(65), abs=1e-4)
    text = log_text(runner)
    assert text.count("The embeddings are collapsing at iteration 18") == 1
    assert text.count("raw_instance has stayed at ln(K + 1) = 4.17") == 1


@pytest.mark.fault("R15")
def test_spread_embeddings_raise_no_alarm(tmp_path):
    """The same run without the injection, and too slow to collapse by itself."""
    images = write_images(tmp_path / "images", per_class=40)
    monitor = {"type": "CollapseMonitorHook", "interval": 2}
    cfg = config(images, tmp_path / "run", collapse=monitor)
    cfg.optim_wrapper.optimizer.lr = 1e-6
    runner = make_runner(cfg)
    runner.train()
    assert "collapsing" not in log_text(runner)
    assert "stayed at" not in log_text(runner)


# --- R21


@pytest.mark.slow
@pytest.mark.fault("R21")
def test_six_ranks_of_32_wrap_around_65536_keys():
    torch.manual_seed(0)
    expected = KeyQueue(65_536, 4).keys.clone()
    torch.manual_seed(1)
    batches = torch.nn.functional.normalize(torch.randn(2, 192, 4), dim=2)
    for i, key in enumerate(batches.flatten(0, 1)):
        expected[(65_536 - 64 + i) % 65_536] = key
    for state in run_ranks(enqueue_near_the_end, 6, batches):
        assert torch.equal(state["keys"], expected)
        assert int(state["ptr"]) == 2 * 192 - 64


@pytest.mark.fault("R21")
def test_a_run_with_a_batch_that_does_not_divide_the_queue(images, tmp_path):
    cfg = config(images, tmp_path, epochs=6)
    cfg.train_dataloader.batch_size = 6
    cfg.train_dataloader.drop_last = False  # 6, 6 and 4 images
    runner = make_runner(cfg)
    runner.train()
    assert int(runner.model.compare.queue.ptr) == (6 * 16) % 64
    norms = runner.model.compare.queue.keys.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(64))


# --- R26


@pytest.mark.fault("R26")
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_mixed_precision_config_runs_on_the_cpu(images, tmp_path, dtype):
    """To the same weights as without, after one notice."""
    states = {}
    for mixed in (True, False):
        cfg = config(images, tmp_path / str(mixed))
        if mixed:
            cfg.optim_wrapper.update(
                type="AmpOptimWrapper", dtype=dtype, loss_scale="dynamic"
            )
        runner = make_runner(cfg)
        runner.train()
        states[mixed] = runner.model.state_dict()
        notices = log_text(runner).count("no mixed precision, training in fp32")
        assert notices == mixed
    assert states[True].keys() == states[False].keys()
    for name, value in states[False].items():
        assert torch.equal(value, states[True][name]), name


# --- R27


def companions(encode, images: torch.Tensor) -> list[set[int]]:
    """Whom each image shares batch statistics with: who changes where it changes."""
    plain = encode(images)
    found = []
    for i in range(len(images)):
        changed = images.clone()
        changed[i] *= 2
        rows = (encode(changed) != plain).any(dim=1)
        found.append(set(rows.nonzero().flatten().tolist()))
    return found


@pytest.mark.fault("R27")
@pytest.mark.parametrize("splits", [2, 4])
def test_on_one_device_keys_have_other_companions_than_queries(splits):
    """Statistics that query and key share would give the pair away."""
    model = build("MoCo", bn_splits=splits)
    inputs = views(16)[0]
    encode_key(model, inputs)  # the first update copies the encoder

    def query(images):
        return unit(model.encode(model, images)["projection"]).detach()

    def key(images):
        return encode_key(model, images)["embedding"]  # shuffled as by the clock

    queries, keys = companions(query, inputs), companions(key, inputs)
    for i in range(16):
        assert i in queries[i] and i in keys[i]
        assert len(queries[i]) == len(keys[i]) == 16 // splits
    assert any(q != k for q, k in zip(queries, keys, strict=True))


@pytest.mark.fault("R27")
@pytest.mark.filterwarnings("default:bn_splits=1")
def test_without_groups_everyone_is_a_companion_and_that_is_told():
    with pytest.warns(UserWarning, match="bn_splits=1 on one device.*leak the answer"):
        model = build("MoCo", bn_splits=1)
    found = companions(
        lambda x: unit(model.encode(model, x)["projection"]).detach(), views(4)[0]
    )
    assert found == [{0, 1, 2, 3}] * 4
