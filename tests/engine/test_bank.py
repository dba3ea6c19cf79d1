"""InterCLR's bank and pseudo-labels in whole runs: start, upkeep, resume, figures."""

import copy
import random
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score
from torch.nn.functional import normalize
from torch.utils.data import ConcatDataset

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.errors import UserError
from mmssl_ext.models.memory import FeatureBank, OnlineLabels
from mmssl_ext.models.memory.kmeans import spherical_kmeans
from tests.distributed import run_ranks
from tests.harness import (
    On,
    Stopped,
    Watch,
    assert_same,
    config,
    log_rows,
    log_text,
    make_runner,
    stop_at,
    write_images,
)
from tests.models.common import model_config

IMAGES, STEPS = 21, 5  # in an epoch, which leaves one image out
CLUSTERS = 4
ONLINE = dict(type="OnlineLabels", num_clusters=CLUSTERS, interval=3, min_size=2)
OFFLINE = dict(type="OfflineLabels", num_clusters=CLUSTERS, interval=2)
CENTRE = [  # one view for the bank; 12 of 16 pixels, unlike any training view
    {"type": "DecodeImage"},
    {"type": "CenterCrop", "size": 12},
    {"type": "PackViews"},
]
FEATURES = "terms.inter.bank.features"
MEAN, STD = (120.0, 100.0, 90.0), (50.0, 60.0, 70.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=3, per_class=7)


def interclr(images, work_dir, epochs=1, labels=ONLINE, *, warmup=0, **hook):
    """A run of a tiny InterCLR on unlabelled images; ``hook`` are its options."""
    cfg = config(images, work_dir, epochs)
    cfg.train_dataloader.dataset.labels = "none"
    cfg.model = model_config(
        "InterCLR",
        pseudo_labels=labels,
        data_preprocessor=dict(mean=MEAN, std=STD),
        images=dict(batch_size=4, num_workers=0, pipeline=CENTRE),
    )
    if warmup:
        epochs_ = dict(until=warmup, unit="epoch")
        cfg.model.loss_lambda = dict(kind="step", start=0, end=0.25, **epochs_)
    cfg.custom_hooks = [{"type": "PseudoLabelHook", "interval": 2, **hook}]
    return cfg


def state_of(runner):
    return {name: x.clone() for name, x in runner.model.state_dict().items()}


def is_memory(name):
    return name.startswith(("terms.inter.bank.", "terms.inter.labels."))


def bank_of(model):
    return model.terms.inter.bank


def labels_of(model):
    return model.terms.inter.labels


def embed_centre(model, path):
    """Unit embedding of the file's 12 x 12 pixels in the middle, in eval mode."""
    pixels = torch.from_numpy(np.array(Image.open(path))[2:14, 2:14])
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    view = (pixels.permute(2, 0, 1).float() - mean) / std
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        embedding = model.neck(model.backbone(view[None]))[0][0]
    return embedding / embedding.square().sum().sqrt()


def paths_of(images):
    return sorted(images.glob("*/*.png"))


# Start


def trained(cfg, *hooks, **options):
    runner = make_runner(cfg, *hooks, **options)
    runner.train()
    return runner


def start(cfg, *hooks):
    """The runner of a config after all that comes before the first step."""
    runner = make_runner(cfg, *hooks, stop_at(0))
    with pytest.raises(Stopped):
        runner.train()
    return runner


def assert_embeddings(model, paths):
    """The bank holds those of the single images; returns it."""
    bank = bank_of(model).features
    for path, row in zip(paths, bank, strict=True):
        torch.testing.assert_close(row, embed_centre(model, path), atol=1e-6, rtol=0)
    return bank


@pytest.fixture(scope="module")
def started(images, tmp_path_factory):
    return start(interclr(images, tmp_path_factory.mktemp("started")))


def test_bank_starts_as_the_embeddings_of_the_single_images(images, started):
    bank = assert_embeddings(started.model, paths_of(images))
    assert bank.shape == (IMAGES, 16)
    # the images differ, so that a row in a wrong place would have been seen
    distance = torch.cdist(bank, bank) + torch.eye(IMAGES)
    assert distance.min() > 1e-4
    fingerprint = ImageFolder(str(images)).fingerprint()
    assert bank_of(started.model).fingerprint.tolist() == [fingerprint]
    text = log_text(started)
    assert f"Feature bank: {IMAGES} images x 16 as torch.float32, 0.0 MB" in text
    assert f"{CLUSTERS} clusters made in" in text


def test_clusters_follow_from_the_seed_of_the_run(images, started, tmp_path):
    def clustered(runner, seed):
        labels = OnlineLabels(CLUSTERS, interval=3, min_size=2)
        bank = FeatureBank(16)
        bank.features = bank_of(runner.model).features.clone()
        labels.start(bank, seed)
        return labels.state_dict()

    cfg = interclr(images, tmp_path)
    cfg.randomness.seed = 3
    for runner, seed, other in ((started, 0, 3), (start(cfg), 3, 0)):
        assert runner.seed == seed
        found = labels_of(runner.model).state_dict()
        assert_same(found, clustered(runner, seed))
        assert not torch.equal(found["labels"], clustered(runner, other)["labels"])


def test_feature_pass_leaves_no_trace(images, tmp_path):
    def look(runner):
        if not seen:
            runner.model.backbone.layer1.eval()
        modes = {name: m.training for name, m in runner.model.named_modules()}
        state = {k: v for k, v in state_of(runner).items() if not is_memory(k)}
        numpy_ = np.random.get_state()[1].tolist()
        generators = torch.get_rng_state().tolist(), numpy_, random.getstate()
        seen.append((modes, generators, state, len(bank_of(runner.model))))

    seen = []
    first = Watch("HIGHEST", before_train=look)
    last = Watch("ABOVE_NORMAL", before_train_epoch=look)
    start(interclr(images, tmp_path), first, last)
    (modes, generators, state, rows), after = seen
    assert (rows, after[3]) == (0, IMAGES)
    assert not modes["backbone.layer1.0.bn1"]
    assert modes["backbone.layer2.0.bn1"]
    assert modes == after[0]
    assert generators == after[1]
    assert_same(state, after[2])


# Ranks


def consistent(state):
    """Whether sums, sizes and labels of an online run describe its bank, exactly."""
    bank, labels = state[FEATURES], state["terms.inter.labels.labels"].long()
    sums = torch.zeros(CLUSTERS, bank.shape[1], dtype=torch.long)
    sizes = [0] * CLUSTERS
    for row, label in zip(bank, labels, strict=True):
        sums[label] += (row.double() * 2**30).round().long()
        sizes[label] += 1
    return (
        torch.equal(sums, state["terms.inter.labels.sums"])
        and sizes == state["terms.inter.labels.sizes"].tolist()
    )


def train_on_rank(rank, images, work_dir):
    """Memory before every step and in the end, images and visits of every step."""
    states, steps, visits = [], [], []

    def model_of(runner):
        return runner.model if rank is None else runner.model.module

    def before(runner, data_batch, **_):
        steps.append([sample.sample_idx for sample in data_batch["data_samples"]])
        look(runner)

    def after(runner, **_):
        visits.append(labels_of(model_of(runner)).visits.tolist())

    def look(runner):
        state = model_of(runner).state_dict()
        states.append({k: v.clone() for k, v in state.items() if is_memory(k)})

    cfg = interclr(images, work_dir, epochs=4)
    # an epoch is one step, in which the sampler repeats one of the 21 images
    cfg.train_dataloader.update(batch_size=11, drop_last=rank is None)
    cfg.randomness.diff_rank_seed = True
    launcher = "none" if rank is None else "pytorch"
    hook = On("HIGHEST", before_train_iter=before, after_train_iter=after)
    runner = trained(cfg, hook, launcher=launcher)
    look(runner)
    weight = model_of(runner).backbone.layer1[0].conv1.weight.detach()
    keys = model_of(runner).last_embeddings["key"]
    return states, steps, visits, keys, weight


def test_ranks_hold_the_same_and_start_as_one_process(images, tmp_path):
    ranks = run_ranks(train_on_rank, 2, images, tmp_path / "two")
    (states, steps, visits, keys, weight), other = ranks
    assert len(states) == len(other[0]) == 5
    for state, state_1 in zip(states, other[0], strict=True):
        assert_same(state, state_1)
        assert consistent(state)
    assert torch.equal(weight, other[4])
    assert visits == other[2]
    name = "terms.inter.labels.centroids"
    for step in range(4):
        seen = steps[step] + other[1][step]
        assert len(seen) == IMAGES + 1
        assert sorted(set(seen)) == list(range(IMAGES))
        after = states[step + 1][FEATURES] @ states[step][name].T
        changed = after.argmax(1) != states[step]["terms.inter.labels.labels"]
        assert visits[step] == [IMAGES, int(changed.sum())]  # the repeated one once
    rows = dict(zip(seen, torch.cat([keys, other[3]]), strict=True))  # the last one
    expected = torch.stack([rows[i] for i in range(IMAGES)])
    bank = states[-1][FEATURES]
    torch.testing.assert_close(bank, expected, atol=1e-6, rtol=0)

    start, alone = states[0], train_on_rank(None, images, tmp_path / "one")[0][0]
    features = start.pop(FEATURES), alone.pop(FEATURES)
    torch.testing.assert_close(*features, atol=1e-6, rtol=0)
    for name in ("centroids", "sums"):  # follow the bank
        start.pop(f"terms.inter.labels.{name}"), alone.pop(f"terms.inter.labels.{name}")
    assert_same(start, alone)


# Upkeep


def test_unreadable_image_leaves_its_row_and_its_substitute_is_written(tmp_path):
    images = write_images(tmp_path / "images", classes=3, per_class=7)
    broken = 4
    paths_of(images)[broken].write_bytes(b"no image")
    seen, banks = [], []

    def before(runner, data_batch, **_):
        banks.append(bank_of(runner.model).features.clone())
        samples = data_batch["data_samples"]
        assert all(sample.sample_idx != broken for sample in samples)
        seen.extend(sample.sample_idx for sample in samples if sample.skipped)

    cfg = interclr(images, tmp_path / "run", epochs=3)
    cfg.train_dataloader.dataset.on_error = "skip"
    runner = trained(cfg, On(before_train_iter=before))
    assert runner.iter == 3 * STEPS
    assert len(seen) >= 2
    rows = bank_of(runner.model).features
    assert torch.equal(rows[broken], banks[0][broken])
    for index in seen:
        assert not torch.equal(rows[index], banks[0][index])
    assert consistent(state_of(runner))


def test_offline_labels_cluster_anew_at_the_end_of_their_epochs(images, tmp_path):
    """What k-means makes of the bank as the last step has left it."""
    steps, ends = [], []
    look = Watch(
        "HIGHEST",  # before the hook that clusters
        after_train_iter=lambda r: steps.append(state_of(r)),
    )
    after = Watch(after_train_epoch=lambda r: ends.append(state_of(r)))
    labels = OFFLINE | dict(num_clusters=6)
    runner = trained(interclr(images, tmp_path, 2, labels), look, after)
    name, centroids = "terms.inter.labels.labels", "terms.inter.labels.centroids"
    for state in (*steps, ends[0]):
        assert torch.equal(state[name], steps[0][name])
    last, end = steps[-1], ends[1]
    begun = normalize(last[centroids], dim=1)
    expected = spherical_kmeans(last[FEATURES], 6, centroids=begun)
    assert torch.equal(end[name], expected)
    changed = float((end[name] != last[name]).float().mean())
    assert changed > 0
    lines = re.findall(r"Pseudo-labels in epoch .*", log_text(runner))
    assert len(lines) == 2 and "% of the images" not in lines[0]
    assert f"{changed:.1%} of the images" in lines[1]


def test_warm_up_is_moco_and_the_bank_starts_after_it(images, tmp_path):
    states, banks = [], []

    def look(runner):
        states.append(state_of(runner))
        banks.append(states[-1][FEATURES])

    def after(runner, outputs, **_):
        ratio = outputs["loss_instance"] / outputs["raw_instance"]
        assert ratio.item() == pytest.approx(0.75 if runner.epoch else 1)

    cfg = interclr(images, tmp_path / "inter", 3, interval=1, warmup=1)
    cfg.default_hooks.logger.interval = 1
    runner = trained(cfg, Watch(before_train_epoch=look), On(after_train_iter=after))
    reference = interclr(images, tmp_path / "moco", 1)
    reference.custom_hooks = []
    reference.model = model_config("MoCo", data_preprocessor=dict(mean=MEAN, std=STD))
    for name, value in trained(reference).model.state_dict().items():
        assert torch.equal(states[1][name], value), name
    assert [len(bank) for bank in banks] == [0, IMAGES, IMAGES]
    model = copy.deepcopy(runner.model)
    model.load_state_dict(states[1])
    assert_embeddings(model, paths_of(images))
    rows = [row for row in log_rows(runner) if "loss_instance" in row]
    for step, row in enumerate(rows):
        warm = step >= STEPS
        assert ("loss_inter" in row) == warm
        assert bool(cluster_row(row)) == warm
    assert "Pseudo-labels in epoch 1" not in log_text(runner)
    assert "Pseudo-labels in epoch 2" in log_text(runner)
    assert runner.model.weights["inter"](runner.model.clock) == 0.25


@pytest.mark.parametrize(
    ("weight", "by_epoch"),
    [
        (dict(kind="step", until=STEPS + 2), True),
        (dict(kind="step", until=STEPS + 2), False),
        (dict(kind="step", until=1.4, unit="epoch"), True),
        (dict(kind="linear", until=STEPS + 2), True),
    ],
)
def test_a_weight_that_rises_within_an_epoch(images, tmp_path, weight, by_epoch):
    """The bank is there in time: at the beginning of that epoch, or of the run."""
    found = {}

    def look(runner, outputs, **_):
        found[runner.iter] = len(bank_of(runner.model)), "loss_inter" in outputs

    cfg = interclr(images, tmp_path, 2)
    cfg.model.loss_lambda = dict(start=0, end=0.25, **weight)
    if not by_epoch:
        cfg.train_cfg = dict(by_epoch=False, max_iters=2 * STEPS)
        cfg.default_hooks.checkpoint.by_epoch = False
    trained(cfg, On(after_train_iter=look))
    starts = 1 if weight["kind"] == "linear" else STEPS + 2
    filled = STEPS if by_epoch and weight["kind"] == "step" else 0
    expected = {i: (IMAGES * (i >= filled), i >= starts) for i in range(2 * STEPS)}
    assert found == expected


# Resume


HALF = dict(bank_dtype="float16", bank_momentum=0.5)


@pytest.mark.parametrize(
    ("labels", "changes", "warmup"),
    [
        pytest.param(ONLINE, {}, 0, id="online", marks=pytest.mark.slow),
        pytest.param(ONLINE | dict(interval=4), HALF, 0, id="half"),
        pytest.param(OFFLINE, {}, 0, id="offline"),
        pytest.param(ONLINE, {}, 2, id="warm-up"),
    ],
)
def test_resume_is_bitwise(images, tmp_path, labels, changes, warmup):
    """Stopped within an epoch; its checkpoint is from between two dates of labels."""

    def run(folder, *hooks, **options):
        cfg = interclr(images, tmp_path / folder, 3, labels, warmup=warmup)
        cfg.model.update(changes)
        return trained(cfg, *hooks, **options)

    def load(folder, epoch):
        wait_for_checkpoints()  # of a run that was stopped
        path = tmp_path / folder / f"epoch_{epoch}.pth"
        return dict(torch.load(path, weights_only=True)["state_dict"])

    straight = run("a")
    with pytest.raises(Stopped):
        run("b", stop_at(STEPS + 2))
    kept = load("b", 1)
    assert kept["target.steps"].tolist() == [STEPS]
    assert len(kept[FEATURES]) == (0 if warmup else IMAGES)
    begun = []
    look = Watch(before_train_iter=lambda r: begun or begun.append(state_of(r)))
    resumed = run("b", look, resume=True)
    assert_same(begun[0], kept)
    assert resumed.iter == 3 * STEPS
    assert_same(state_of(straight), state_of(resumed))
    assert_same(state_of(straight), load("b", 3))
    names = {FEATURES, "terms.inter.bank.fingerprint", "compare.queue.keys"}
    parts = ["labels", "centroids", "sizes", "steps", "visits"]
    parts += ["sums"] * (labels["type"] == "OnlineLabels")
    names |= {f"terms.inter.labels.{part}" for part in parts}
    assert names <= kept.keys()


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A folder with images, their list, and a run of one epoch on the list."""
    root = tmp_path_factory.mktemp("half")
    images = write_images(root / "images", classes=3, per_class=7)
    names = [str(path.relative_to(images)) for path in paths_of(images)]
    write_list(root, names)
    trained(on_list(root))
    return root, names


def write_list(root, names):
    (root / "list.txt").write_text("\n".join(names))


def on_list(root, epochs=1, images="images", labels=ONLINE, run="run"):
    cfg = interclr(root / images, root / run, epochs, labels)
    dataset = cfg.train_dataloader.dataset
    dataset.pop("labels")
    dataset.update(
        type="ImageList", ann_file=str(root / "list.txt"), root=str(root / images)
    )
    return cfg


@pytest.mark.parametrize(
    "change",
    [lambda names: names[:-1], lambda names: [names[1], names[0], *names[2:]]],
    ids=["fewer", "reordered"],
)
def test_resume_with_other_images_is_refused(half, change):
    root, names = half
    try:
        write_list(root, change(names))
        runner = make_runner(on_list(root, epochs=2), resume=True)
        with pytest.raises(UserError, match=r"belongs to 21 other images.*load_from"):
            runner.train()
        assert runner.iter == STEPS
    finally:
        write_list(root, names)


UNFIT = {
    "large": (ONLINE | dict(min_size=20), "at least min_size=20 images"),
    # the sums would keep the rounding of rows that are gone
    "half": (ONLINE, "resume with the bank_dtype"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_resume_of_a_bank_that_does_not_fit_is_refused(half, case):
    labels, sentence = UNFIT[case]
    cfg = on_list(half[0], 2, labels=labels)
    if case == "half":
        cfg.model.bank_dtype = "float16"
    with pytest.raises(UserError, match=sentence):
        make_runner(cfg, resume=True).train()


def test_resume_as_another_kind_of_labels(half):
    """A checkpoint of offline labels has no sums."""
    root, _ = half
    trained(on_list(root, labels=OFFLINE, run="offline"))
    runner = make_runner(on_list(root, 2, run="offline"), resume=True)
    with pytest.raises(UserError, match="another type than OnlineLabels"):
        runner.train()


def test_load_from_starts_the_bank_anew(half, images, tmp_path):
    root, _ = half
    paths = sorted((images / "class1").iterdir())
    write_list(tmp_path, map(str, paths))
    cfg = on_list(tmp_path)
    checkpoint = root / "run" / "epoch_1.pth"
    (tmp_path / "images").mkdir()
    labels = dict(num_clusters=2, min_size=1)  # another number is no matter here
    cfg.model.pseudo_labels.update(labels)
    cfg.load_from = str(checkpoint)
    runner = start(cfg)
    model = runner.model
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name in ("backbone.layer1.0.conv1.weight", "neck.mlp.0.weight"):
        assert torch.equal(model.state_dict()[name], trained[name])
    dataset = runner.train_dataloader.dataset
    assert bank_of(model).fingerprint.tolist() == [dataset.fingerprint()]
    assert len(assert_embeddings(model, paths)) == 7
    assert labels_of(model).sizes.sum() == 7
    assert "Feature bank: 7 images" in log_text(runner)


# Refusals


def refused(cfg):
    runner = make_runner(cfg)
    with pytest.raises(UserError) as caught:
        runner.train()
    assert runner.iter == 0
    return str(caught.value)


def no_bank(cfg):
    cfg.model = model_config("MoCo")


def no_epochs(cfg):
    cfg.train_cfg = {"by_epoch": False, "max_iters": 3}
    cfg.default_hooks.checkpoint.by_epoch = False


def options_of_images(**options):
    return lambda cfg: cfg.model.__setitem__("images", options or None)


FEW = "4 clusters of at least min_size=6 images need 24 images, but there are 21"
NO_PIPELINE = "(model.images of InterCLR); the pipeline makes one view"
NOBODY, SOME = options_of_images(), options_of_images(batch_size=4)
WRONG = options_of_images(pipeline=CENTRE, batchsize=4)
REFUSED = {
    "no bank": (ONLINE, no_bank, "which MoCo has not; take it out of custom_hooks"),
    "size": (ONLINE | dict(min_size=6), None, FEW),
    "no epochs": (OFFLINE, no_epochs, "set by_epoch=True"),
    "nobody": (ONLINE, NOBODY, "set images=dict(pipeline=[...], batch_size="),
    "no pipeline": (ONLINE, SOME, NO_PIPELINE),
    "option": (ONLINE, WRONG, "The images of The inter-image term"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_started_is_refused(images, tmp_path, case):
    labels, change, sentence = REFUSED[case]
    cfg = interclr(images, tmp_path, 1, labels)
    if change is not None:
        change(cfg)
    assert sentence in refused(cfg)


def test_wrapped_datasets(images, tmp_path):
    cfg = interclr(images, tmp_path)
    runner = make_runner(cfg)
    folder = runner.build_dataloader(cfg.train_dataloader).dataset
    runner._train_dataloader["dataset"] = ConcatDataset([folder, folder])
    with pytest.raises(UserError, match="A ConcatDataset around datasets numbers"):
        runner.train()


def test_labels_that_change_the_selection(tmp_path):
    images = write_images(tmp_path / "images", classes=3, per_class=7)
    shutil.copy(images / "class0" / "0.png", images / "stray.png")
    cfg = interclr(images, tmp_path / "run", dataset=dict(labels="subfolders"))
    assert "has other images than the training set" in refused(cfg)


# Figures


SIZES = {"size_min", "size_median", "size_max", "effective_number"}
LABELLED = dict(labels="subfolders")


def cluster_row(row):
    return {k.split("/")[1]: v for k, v in row.items() if k.startswith("cluster/")}


def slow_figures(labels, classes):
    sizes = sorted([labels.count(c) for c in range(CLUSTERS)])
    entropy = -sum(s / IMAGES * np.log(s / IMAGES) for s in sizes if s)
    hits = 0
    for c in set(labels):
        members = [k for own, k in zip(labels, classes, strict=True) if own == c]
        hits += max(members.count(k) for k in members)
    return {
        "size_min": sizes[0],
        "size_median": np.median(sizes),
        "size_max": sizes[-1],
        "effective_number": np.exp(entropy),
        "purity": hits / IMAGES,
        "nmi": normalized_mutual_info_score(classes, labels),
    }


def test_figures_in_log_and_text(images, tmp_path):
    """As assigning the images of every step by hand, from the state before it."""
    before, visits, assigned = [], [], []

    def look(runner, **_):
        labels = labels_of(runner.model)
        before[:] = labels.centroids.clone(), labels.labels.clone()

    def follow(runner, data_batch, **_):
        seen = {sample.sample_idx for sample in data_batch["data_samples"]}
        centroids, labels = before
        bank = bank_of(runner.model).features
        changed = sum(int((centroids @ bank[i]).argmax() != labels[i]) for i in seen)
        visits.append((len(seen), changed))
        assigned.append(labels_of(runner.model).labels.tolist())

    cfg = interclr(images, tmp_path, 3, dataset=LABELLED)
    cfg.default_hooks.logger.interval = 1
    hook = On("HIGHEST", before_train_iter=look, after_train_iter=follow)
    runner = trained(cfg, hook)
    rows = [cluster_row(row) for row in log_rows(runner) if "loss_inter" in row]
    assert len(rows) == 3 * STEPS
    assert rows[0] == {}  # nothing is known before the first interval
    lines = re.findall(r"Pseudo-labels in epoch .*", log_text(runner))
    assert len(lines) == 3
    classes = [0] * 7 + [1] * 7 + [2] * 7
    since, rates = 0, set()
    for epoch in range(3):
        for place in (2, 4, STEPS):  # the interval is 2; and the end of the epoch
            step = STEPS * epoch + place
            seen, changed = np.sum(visits[since:step], axis=0)
            since, rate = step, changed / seen
            rates.add(rate)
            expected = slow_figures(assigned[step - 1], classes)
            if place < STEPS:
                assert rows[step - 1] == pytest.approx(
                    expected | {"change_rate": rate}, abs=1e-6
                )
        assert lines[epoch].startswith(
            f"Pseudo-labels in epoch {epoch + 1}: 4 clusters of "
            f"{expected['size_min']} to {expected['size_max']} images (median "
            f"{expected['size_median']:.0f}), {rate:.1%} of the images seen changed "
            f"theirs; purity {expected['purity']:.3f}, NMI {expected['nmi']:.3f} ("
        )
    assert len(rates) > 3
    assert len({row.get("purity") for row in rows}) > 3


def test_labels_and_the_hook_are_for_the_figures_only(images, tmp_path):
    """The bank is the model's own affair."""
    states, rows, texts = [], [], []
    for i, hook in enumerate((dict(dataset=LABELLED), dict(interval=1), None)):
        cfg = interclr(images, tmp_path / str(i), 2, **(hook or {}))
        if hook is None:
            cfg.custom_hooks = []
        runner = trained(cfg)
        states.append(state_of(runner))
        states[-1].pop("terms.inter.labels.visits")  # counts since the last figures
        rows.append([cluster_row(row) for row in log_rows(runner)][-1])
        texts.append(log_text(runner))
    for state in states[1:]:
        assert_same(state, states[0])
    assert set(rows[0]) == SIZES | {"change_rate", "purity", "nmi"}
    assert set(rows[1]) == SIZES | {"change_rate"} and not rows[2]
    assert "purity" not in texts[1] and "Pseudo-labels in epoch" not in texts[2]
    assert texts[0].count("labels serve these two figures only") == 2


def test_the_end_of_an_epoch_on_the_interval_keeps_its_rate(images, tmp_path):
    """Both ask for the figures after the same step; the second finds no visit."""
    rates = []

    def look(runner):
        if runner.iter % STEPS == STEPS - 1:
            scalar = runner.message_hub.get_scalar("train/cluster/change_rate")
            rates.append(scalar.current())

    cfg = interclr(images, tmp_path, 2, interval=STEPS)
    runner = trained(cfg, Watch(after_train_iter=look))
    found = re.findall(r"([\d.]+)% of the images seen", log_text(runner))
    assert [f"{100 * rate:.1f}" for rate in rates] == found
    assert len(found) == 2
