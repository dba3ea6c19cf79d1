"""A loader that is one batch ahead delivers what the loader itself would."""

import contextlib

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, Dataset

from mmssl_ext.engine.resilience.prefetch import CopyToDevice, PrefetchLoader, prefetch
from tests.harness import BATCH, ToyData, Watch, toy_runner


def as_it_is(batch):
    return lambda: batch


class Journal:
    """Stands in for a loader and for the copy, and notes what happens when."""

    def __init__(self, length):
        self.events, self.length = [], length

    def __iter__(self):
        self.events.append("made")
        return self.batches()

    def batches(self):
        try:
            for i in range(self.length):
                self.events.append(f"fetch{i}")
                yield i
            self.events.append("end")
        finally:
            self.events.append("closed")

    def copy(self, batch):
        self.events.append(f"copy{batch}")

        def use():
            self.events.append(f"use{batch}")
            return ("copied", batch)

        return use


EVENTS = {
    0: "made end closed",
    1: "made fetch0 copy0 end closed use0",
    3: "made fetch0 copy0 fetch1 copy1 use0 fetch2 copy2 use1 end closed use2",
}


@pytest.mark.parametrize("length", EVENTS)
def test_the_next_copy_starts_before_each_use(length):
    """A resumed run prepares samplers and generators for when the iterator is made."""
    journal = Journal(length)
    loader = PrefetchLoader(journal, journal.copy)
    for _ in range(2):  # a second epoch starts afresh
        batches = iter(loader)
        assert journal.events == ["made"]
        assert list(batches) == [("copied", x) for x in range(length)]
        assert " ".join(journal.events) == EVENTS[length]
        journal.events.clear()


def test_early_stop_takes_one_batch_more_and_closes_the_loader():
    journal = Journal(9)
    for _, batch in PrefetchLoader(journal, journal.copy):
        if batch == 3:
            break
    assert journal.events[-4:] == ["fetch4", "copy4", "use3", "closed"]


def test_errors_come_where_the_loader_would_raise_them():
    class Bad(Dataset):
        fetched = 0

        def __len__(self):
            return 8

        def __getitem__(self, index):
            Bad.fetched += 1
            if index == 5:
                raise ValueError("image 5 is broken")
            return index

    loader = iter(PrefetchLoader(DataLoader(Bad()), as_it_is))
    assert [int(next(loader)) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="image 5 is broken"):
        next(loader)
    assert Bad.fetched == 6  # nothing behind the error

    def fails(batch):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        list(PrefetchLoader([1], fails))


def test_attributes_are_those_of_the_loader():
    data = ToyData()
    inner = DataLoader(data, batch_size=BATCH, shuffle=True)
    loader = PrefetchLoader(inner, as_it_is)
    assert len(loader) == 6
    for name in ("dataset", "sampler", "batch_sampler", "batch_size", "collate_fn"):
        assert getattr(loader, name) is getattr(inner, name)
    assert not hasattr(loader, "no_such_thing")


class Seen(Hook):
    def __init__(self):
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.images.append(data_batch["data_samples"].tolist())


def install():
    """A hook that has a run's batches fetched ahead."""
    return Watch(before_run=lambda runner: prefetch(runner.train_loop, as_it_is))


def run(tmp_path, name, loop, *hooks, resume=None, workers=0):
    torch.manual_seed(3)
    seen, by_epoch = Seen(), loop["by_epoch"]
    kind = "DefaultSampler" if by_epoch else "InfiniteSampler"
    checkpoint = {"type": "mmssl_ext.PlainCheckpointHook", "by_epoch": by_epoch}
    runner = toy_runner(
        tmp_path / name,
        f"{tmp_path.name}-{name}",
        *(seen, *hooks),
        resume=None if resume is None else tmp_path / resume,
        train_dataloader={
            "dataset": ToyData(),
            "batch_size": BATCH,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "sampler": {"type": kind, "shuffle": True},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg=loop,
        default_hooks={"checkpoint": {**checkpoint, "interval": 1 if by_epoch else 5}},
        log_processor={"by_epoch": by_epoch},
    )
    runner.train()
    return runner, seen.images


@pytest.mark.parametrize(
    ("loop", "file", "done", "workers"),
    [
        ({"by_epoch": True, "max_epochs": 3}, "epoch_1.pth", 6, 0),
        ({"by_epoch": True, "max_epochs": 3}, "epoch_1.pth", 6, 2),
        ({"by_epoch": False, "max_iters": 11}, "iter_5.pth", 5, 0),
    ],
)
def test_runs_and_resumed_runs_see_the_same_images(tmp_path, loop, file, done, workers):
    plain, expected = run(tmp_path, "plain", loop, workers=workers)
    ahead, images = run(tmp_path, "ahead", loop, install(), workers=workers)
    assert isinstance(ahead.train_dataloader, PrefetchLoader)
    assert images == expected
    assert len({tuple(map(tuple, images[i : i + 6])) for i in (0, 6)}) == 2
    for a, b in zip(plain.model.parameters(), ahead.model.parameters(), strict=True):
        assert torch.equal(a, b)
    _, rest = run(
        *(tmp_path, "rest", loop, install()),
        **{"resume": f"ahead/{file}", "workers": workers},
    )
    assert rest == expected[done:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_on_the_gpu_are_right_and_stay_so():
    """Many large batches, used late: no copy overwrites what a kernel still reads."""
    device = torch.device("cuda", torch.cuda.current_device())
    size = (64, 3, 128, 128)

    class Large(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            views = [
                torch.full(size, (index + v) % 256, dtype=torch.uint8) for v in (0, 1)
            ]
            batch = {"inputs": views, "data_samples": index, "augment": [torch.ones(2)]}
            return batch | {"boxes": torch.full((64, 2, 4), index / 8)}

    loader = DataLoader(Large(), batch_size=None, pin_memory=True)
    sums = []
    work = torch.randn(4096, 4096, device=device)
    for batch in PrefetchLoader(loader, CopyToDevice(device)):
        assert all(view.device == device for view in batch["inputs"])
        assert batch["augment"][0].device.type == "cpu"
        assert batch["boxes"].device == device
        assert batch["boxes"].unique().item() == batch["data_samples"] / 8
        for _ in range(4):  # keeps the stream busy behind the host
            work = work @ work * 1e-3
        sums += [view.double().mean() for view in batch["inputs"]]
        del batch
    expected = [float((i + v) % 256) for i in range(30) for v in (0, 1)]
    assert torch.stack(sums).tolist() == expected


def test_boxes_and_index_travel_with_the_views(monkeypatch):
    copied, kept = [], []

    class Stream:
        def __init__(self, *args):
            self.wait_event = lambda event: None

        def record_event(self):
            return None

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, s: kept.append(x))
    copy = CopyToDevice(torch.device("cuda"))
    monkeypatch.setattr(copy, "_copy", lambda x: copied.append(x) or x + 1)
    views = [torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)]
    batch = {"inputs": views, "boxes": torch.rand(2, 2, 4), "index": torch.arange(2)}
    batch["augment"] = [torch.ones(2)]
    found = copy(batch)()
    assert [id(x) for x in copied] == [
        id(x) for x in (*views, batch["boxes"], batch["index"])
    ]
    assert torch.equal(found["boxes"], batch["boxes"] + 1)
    assert found["index"].tolist() == [1, 2] and found["augment"] is batch["augment"]
    assert len(kept) == 4
    # Items that were not collated stay as they are, as their views do.
    lists = {"inputs": [views], "boxes": [torch.rand(2, 4)], "index": [0]}
    assert copy(lists)()["index"] == [0]


def test_batches_of_another_kind_pass(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    copy = CopyToDevice(torch.device("cuda"))
    for batch in ([torch.ones(1)], {"images": torch.ones(1)}):
        assert copy(batch)() is batch
