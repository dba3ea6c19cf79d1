"""What MSF's kin, IFND, ProPos and TKC keep beside the weights, in whole runs."""

import pytest
import torch

from mmssl_ext.errors import UserError
from tests.harness import (
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
ONE_VIEW = [{"type": "DecodeImage"}, {"type": "PackViews"}]
LOADER = dict(batch_size=4, num_workers=0, pipeline=ONE_VIEW)
CLUSTERS = dict(type="SameCluster", num_clusters=4)
RATE = dict(kind="linear", start=0, end=1)
LEVELS = dict(levels=(3, 6), warmup=1, interval=1, rate=RATE)
PROTOTYPES = dict(num_clusters=4, queue_len=12)
METHODS = {
    "2q": ("CMSF", dict(bank_len=12)),
    "half": ("CMSF", dict(bank_len=12, bank_dtype="float16")),
    "clusters": ("CMSF", dict(bank_len=12, constraint=CLUSTERS)),
    "classes": ("CMSF", dict(bank_len=12, constraint=dict(type="SameLabel"))),
    "teachers": ("TKC", dict(queue_len=12, temporal=dict(interval=1))),
    "propos": ("ProPos", dict(warmup=1, images=LOADER, prototypes=PROTOTYPES)),
    "ifnd": ("IFND", dict(queue_len=12, false_negatives=LEVELS, images=LOADER)),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=3, per_class=7)


def run_config(images, work_dir, method, epochs=4):
    name, changes = METHODS[method]
    cfg = config(images, work_dir, epochs)
    if method != "classes":
        cfg.train_dataloader.dataset.labels = "none"
    cfg.model = model_config(name, **changes)
    if method in ("clusters", "ifnd", "propos"):
        cfg.custom_hooks = [{"type": "PseudoLabelHook", "interval": 2}]
    return cfg


def trained(cfg, *hooks, **options):
    runner = make_runner(cfg, *hooks, **options)
    runner.train()
    return runner


def state_of(runner):
    return {name: x.clone() for name, x in runner.model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:bn_splits=1")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param("half", marks=pytest.mark.slow),
        "2q",
        "clusters",
        "ifnd",
        "propos",
        "teachers",
    ],
)
def test_resume_is_bitwise(images, tmp_path, method):
    """Stopped in the third epoch, when sets and labels count already."""
    straight = trained(run_config(images, tmp_path / "a", method))
    cut = make_runner(run_config(images, tmp_path / "b", method), stop_at(13))
    with pytest.raises(Stopped):
        cut.train()
    begun = []
    look = Watch(before_train_iter=lambda r: begun or begun.append(r.iter))
    resumed = trained(run_config(images, tmp_path / "b", method), look, resume=True)
    assert begun == [10] and resumed.iter == 20
    assert_same(state_of(straight), state_of(resumed))
    model = resumed.model
    if method == "teachers":  # one after each epoch, the last at iteration 15
        assert model.terms.temporal.snapshots.taken == [15, 10]
        return
    if method in ("2q", "half"):
        constraint = model.compare.constraint
        assert (constraint.earlier.labels == 0).sum() > 6
        assert len(constraint.last) == IMAGES
        fingerprint = constraint.last.fingerprint
    else:
        table = {
            "ifnd": lambda: model.compare.clusters.tables[0],
            "propos": lambda: model.terms.scattering.clusters.tables[0],
            "clusters": lambda: model.compare.constraint.table,
        }[method]()
        assert len(table) == IMAGES and (table.labels >= 0).any()
        fingerprint = table.fingerprint
        assert "Pseudo-labels in epoch 4" in log_text(resumed)
    dataset = resumed.train_dataloader.dataset
    assert fingerprint.tolist() == [dataset.fingerprint()]


@pytest.mark.filterwarnings("ignore:bn_splits=1")
def test_a_checkpoint_without_its_snapshots_is_refused(images, tmp_path):
    """Of a run whose first teacher was to come later."""
    late = run_config(images, tmp_path / "late", "teachers", epochs=2)
    late.model.temporal.interval = 5
    trained(late)
    cfg = run_config(images, tmp_path / "late", "teachers", epochs=3)
    with pytest.raises(UserError, match=r"By iteration 10 1 snapshots.* holds 0: re"):
        trained(cfg, resume=True)


@pytest.mark.filterwarnings("ignore:bn_splits=1")
def test_ifnd_clusters_when_it_is_time(images, tmp_path):
    """Before epochs 2 to 4; the rate is that of the iteration."""
    found = []

    def look(runner):
        tables = runner.model.compare.clusters.tables
        found.append([int((table.labels >= 0).sum()) for table in tables])

    hook = Watch(before_train_iter=look)
    runner = trained(run_config(images, tmp_path, "ifnd"), hook)
    share = {1: 6, 2: 11, 3: 16}  # ceil of 21 times 1/4, 1/2 and 3/4
    for iteration, known in enumerate(found):
        assert known == 2 * [share.get(iteration // STEPS, 0)], iteration
    assert runner.model.compare.clusters.clustered.item() == 4
    assert "labels of 25.0% of 21 images at 2 levels" in log_text(runner)
    rows = [row for row in log_rows(runner) if "loss_instance" in row]
    assert "false_negatives" not in rows[0] and rows[-1]["false_negatives"] > 0


@pytest.mark.filterwarnings("ignore:bn_splits=1")
def test_other_images_are_refused_at_resume(images, tmp_path):
    """One sentence for each way of keeping something by image."""
    other = write_images(tmp_path / "other", classes=3, per_class=8)
    for method in ("2q", "clusters", "classes", "ifnd", "propos"):
        trained(run_config(images, tmp_path / method, method, epochs=1))
        cfg = run_config(other, tmp_path / method, method, epochs=2)
        runner = make_runner(cfg, resume=True)
        with pytest.raises(UserError, match="other images") as caught:
            runner.train()
        assert "\n" not in str(caught.value), method


def no_epochs(cfg):
    cfg.train_cfg = {"by_epoch": False, "max_iters": 3}
    cfg.default_hooks.checkpoint.by_epoch = False


def no_labels(cfg):
    cfg.train_dataloader.dataset.labels = "none"


def no_images(cfg):
    cfg.model.images = None


REFUSED = {
    "clusters": ("clusters", no_epochs, "set by_epoch=True"),
    "ifnd": ("ifnd", no_epochs, "clusters before an epoch, which this run has not"),
    "propos": ("propos", no_epochs, "PrototypeScattering clusters before an epoch"),
    "images": ("ifnd", no_images, "FalseNegativeSoftmax embeds all training images"),
    "labels": ("classes", no_labels, "SameLabel needs a dataset with labels"),
}


@pytest.mark.filterwarnings("ignore:bn_splits=1")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_started_is_refused(images, tmp_path, case):
    method, change, sentence = REFUSED[case]
    cfg = run_config(images, tmp_path, method)
    change(cfg)
    runner = make_runner(cfg)
    with pytest.raises(UserError, match=sentence) as caught:
        runner.train()
    assert runner.iter == 0 and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:bn_splits=1")
def test_weights_of_another_run_start_the_memory_anew(images, tmp_path):
    other = write_images(tmp_path / "other", classes=2, per_class=5)
    first = trained(run_config(images, tmp_path / "first", "2q", epochs=1))
    cfg = run_config(other, tmp_path / "second", "2q", epochs=1)
    cfg.load_from = str(tmp_path / "first" / "epoch_1.pth")
    begun = []
    runner = trained(cfg, Watch(before_train_iter=lambda r: begun.append(state_of(r))))
    weight = "backbone.layer1.0.conv1.weight"
    assert torch.equal(begun[0][weight], state_of(first)[weight])
    assert (begun[0]["compare.bank.index"] == -1).all()
    assert not begun[0]["compare.constraint.last.features"].any()
    dataset = runner.train_dataloader.dataset
    fingerprint = runner.model.compare.constraint.last.fingerprint
    assert fingerprint.tolist() == [dataset.fingerprint()]
