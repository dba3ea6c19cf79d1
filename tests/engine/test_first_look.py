"""Images that the main process reads are waited for no longer than a worker would."""

import contextlib
import os
import signal
import time

import numpy as np
import pytest
from mmengine.hooks import Hook
from PIL import Image

from mmssl_ext.engine.monitor import first_look
from mmssl_ext.engine.monitor.first_look import watched_read
from mmssl_ext.errors import LoaderError
from mmssl_ext.registry import TRANSFORMS
from tests.distributed import wait_for
from tests.harness import RunHarness, config, knn, log_text, make_runner, write_images

CHECK = {"type": "InputCheckHook"}


@TRANSFORMS.register_module()
class ReadPipe:
    """Wait in a system call, as for a disk of the network that is gone."""

    def __init__(self, path):
        self.path = path

    def __call__(self, results):
        with open(f"{self.path}.reached", "w"):
            pass
        with open(self.path):
            return results


class ImportThis(Hook):
    """So that the process of a run knows the transform."""


@pytest.fixture
def waiting(images, tmp_path):
    """A config whose first image never comes, and what says that it is waited for."""
    os.mkfifo(tmp_path / "pipe")
    hooks = {"input_check": CHECK, "preemption": {"type": "PreemptionHook"}}
    cfg = config(images, tmp_path / "run", **hooks)
    step = {"type": "ReadPipe", "path": str(tmp_path / "pipe")}
    cfg.train_dataloader.dataset.pipeline.insert(0, step)
    yield cfg, tmp_path / "pipe.reached"
    with contextlib.suppress(OSError):  # let go who waits still
        os.close(os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.fault("R36")
def test_a_signal_ends_the_wait_for_the_first_image(waiting):
    cfg, reached = waiting
    with RunHarness.of(cfg).start(ImportThis()) as found:
        end = time.monotonic() + 60
        while not reached.exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(found[0].process.pid, signal.SIGTERM)
        assert wait_for(found, 40) < 20
        assert found[0].code == 75, found[0].text
    assert "there is nothing to save; start it again" in found[0].text


def test_an_image_that_never_comes_is_named_after_the_time_of_a_loader(
    waiting, monkeypatch
):
    cfg, _ = waiting
    monkeypatch.setattr(first_look, "TIMEOUT", 0.3)
    start = time.monotonic()
    with pytest.raises(LoaderError, match=r"class0/0\.png.* within 0\.3 s\. Look"):
        make_runner(cfg).train()
    assert time.monotonic() - start < 20


def test_results_and_errors_come_as_they_are():
    assert watched_read(lambda: 7, "It") == 7
    with pytest.raises(KeyError, match="mine"):
        watched_read(lambda: {}["mine"], "It")


def test_what_is_in_images_but_not_read_is_said_once(tmp_path):
    train = write_images(tmp_path / "train")
    query = write_images(tmp_path / "query")
    for path in [*train.rglob("*.png"), *query.rglob("*.png")]:
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(path)
    hooks = {"input_check": CHECK, "knn": knn(train, query)}
    runner = make_runner(config(train, tmp_path / "run", **hooks))
    runner.train()
    lines = [x for x in log_text(runner).splitlines() if "images looked at" in x]
    assert len(lines) == 2
    assert "16 of 16 images looked at use less than a tenth" in lines[0]
    assert f"{train}/class0/0.png" in lines[0] and f"{query}/class0" in lines[1]
    assert all("WARNING" in line and "bands=[0, 0, 0]" in line for line in lines)
