import json
import types

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement as Sample
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.hooks import PlainCheckpointHook, ResultHook
from mmssl_ext.errors import UserError
from mmssl_ext.visualization.hooks.pictures import PicturesHook, enlarged
from mmssl_ext.visualization.predictions import COLOURS, add_legends, colours_of
from tests.harness import (
    Stopped,
    Watch,
    log_text,
    stop_at,
    toy_runner,
    with_metrics,
)


def toy(work_dir, name, found, hook, *hooks, **options):
    return with_metrics(toy_runner(work_dir, name, hook, *hooks, **options), *found)


def result(work_dir):
    return json.loads((work_dir / "result.json").read_text())


def test_result_of_a_training_with_validation(tmp_path):
    found = [
        {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_s": -1.0, "aAcc": 40.0},
        {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_s": -1.0, "aAcc": 50.0},
    ]
    named = {"AP": "coco/bbox_mAP", "small": "coco/bbox_mAP_s", "accuracy": "aAcc"}
    runner = toy(tmp_path, "validated", found, ResultHook(named))
    report = types.SimpleNamespace(as_dict=lambda: {"sha256": "ab", "matched": 3})
    runner.model.linear.handover = report
    (tmp_path / "result.json").write_text("an earlier one")
    (tmp_path / "last_checkpoint").write_text("some/iter_12.pth")
    runner.train()
    got = result(tmp_path)
    assert got["metrics"] == {"AP": 25.0, "small": None, "accuracy": 50.0}
    assert next(iter(got["metrics"])) == got["headline"] == "AP"
    curve = {"iterations": [6, 12], "epochs": [1, 2], "values": [10.0, 25.0]}
    assert got["curve"] == curve
    assert (got["iterations"], got["epochs"], got["seed"]) == (12, 2, 3)
    assert got["handover"] == {"sha256": "ab", "matched": 3}
    assert got["checkpoint"] == "some/iter_12.pth"
    assert got["versions"]["torch"] == torch.__version__
    assert got["memory_of"] == "process" and 50 < got["memory_mb"] < 100_000
    assert (tmp_path / "result.old.json").read_text() == "an earlier one"


def test_a_metric_that_was_not_produced_is_named_at_the_first_validation(tmp_path):
    hook = ResultHook({"AP": "coco/bbox_map"})
    runner = toy(tmp_path, "misnamed", [{"coco/bbox_mAP": 0.1, "x": 1}], hook)
    with pytest.raises(UserError, match=r"no coco/bbox_map\. .*: coco/bbox_mAP, x\."):
        runner.train()
    assert runner.iter == 6
    assert not (tmp_path / "result.json").exists()


def test_no_detection_at_all_counts_as_nothing(tmp_path):
    hook = ResultHook({"AP": "coco/bbox_mAP"})
    runner = toy(tmp_path, "nothing", [{}, {}], hook)
    runner.train()
    assert result(tmp_path)["metrics"] == {"AP": 0.0}
    assert "returned no metric" in log_text(runner)


def test_an_interrupted_run_leaves_none_and_its_resume_a_whole_one(tmp_path):
    hooks = ResultHook(), PlainCheckpointHook(interval=1)
    with pytest.raises(Stopped):
        toy_runner(tmp_path, "cut", *hooks, stop_at(5, "after_train_epoch")).train()
    assert not (tmp_path / "result.json").exists()
    time_before = load_checkpoint_file(tmp_path / "epoch_1.pth")
    time_before = time_before["message_hub"]["runtime_info"]["result_seconds"]
    assert time_before > 0

    # The last checkpoint was written, its validation never made: it is made up for.
    how = {"epochs": 1, "resume": tmp_path / "epoch_1.pth"}
    toy(tmp_path, "cut 2", [{"top1": 30.0}], ResultHook(), **how).train()
    got = result(tmp_path)
    assert got["metrics"] == {"top1": 30.0}
    assert got["curve"]["iterations"] == [6]
    assert got["seconds"] >= round(time_before, 1)


def test_the_curve_goes_on_after_a_resume(tmp_path):
    save = PlainCheckpointHook(interval=1, by_epoch=True)
    found = [{"top1": 1.0}, {"top1": 2.0}]
    toy(tmp_path, "first", found, ResultHook(), save).train()
    how = {"epochs": 3, "resume": tmp_path / "epoch_2.pth"}
    toy(tmp_path, "second", [{"top1": 3.0}], ResultHook(), save, **how).train()
    curve = result(tmp_path)["curve"]
    # The checkpoint of epoch 2 was written before the validation of epoch 2.
    assert curve["iterations"] == [6, 18]
    assert curve["values"] == [1.0, 3.0]


def test_evaluation_alone_never_replaces_the_result_of_a_training(tmp_path):
    named = {"AP": "voc"}
    for name, value in (("tested", 12.5), ("tested 2", 13.0)):
        runner = toy(tmp_path, name, [{"voc": value}], ResultHook(named))
        runner._train_loop = runner.optim_wrapper = None
        runner.test()
        if value == 12.5:
            assert result(tmp_path)["metrics"] == {"AP": 12.5}
            assert result(tmp_path)["trained"] is False
            (tmp_path / "result.json").write_text('{"trained": true}')
    assert result(tmp_path) == {"trained": True}
    other = json.loads((tmp_path / "evaluation.json").read_text())
    assert other["metrics"] == {"AP": 13.0}


def test_pretraining_gives_its_last_knn(tmp_path):
    rows = [
        {"epoch": 0, "iter": 0, "backbone_top1": 20.0, "embedding_top1": 10.0},
        {"epoch": 2, "iter": 12, "backbone_top1": 61.0, "embedding_top1": 50.0},
    ]

    def measure(runner):
        runner.message_hub.update_info("knn_history", rows)

    knn = Watch(after_train=measure)
    toy_runner(tmp_path, "pretrained", ResultHook(), knn).train()
    got = result(tmp_path)
    assert got["metrics"] == {"knn/backbone_top1": 61.0, "knn/embedding_top1": 50.0}
    assert got["curve"]["values"] == [20.0, 61.0]


def draw(tmp_path, samples, palette=None, classes=("sky", "road"), **options):
    log = []
    logger = types.SimpleNamespace(warning=log.append)
    model = types.SimpleNamespace(data_preprocessor=None)
    meta = {"classes": classes, "palette": palette}
    vis = types.SimpleNamespace(dataset_meta=meta)
    runner = types.SimpleNamespace(
        work_dir=tmp_path, visualizer=vis, logger=logger, model=model
    )
    hook = PicturesHook(**options)
    hook.before_val_epoch(runner)
    for i, sample in enumerate(samples):
        hook.after_val_iter(runner, i, None, [sample])
    return log


def picture(tmp_path):
    """The first picture, H x W x 3 in RGB, its sides and the height of the legends."""
    folder = tmp_path / "predictions"
    entry = json.loads((folder / "index.json").read_text())["pictures"][0]
    drawn = np.asarray(Image.open(folder / entry["file"]).convert("RGB"))
    width = (drawn.shape[1] - entry["gap"]) // 2
    sides = drawn[: len(drawn) - entry["legend"]]
    return entry, drawn, (sides[:, :width], sides[:, -width:])


def near(pixel, colour):
    return np.abs(pixel.astype(int) - np.array(colour)).max() <= 1


def instances(path, masks=False):
    boxes = torch.tensor([[1.0, 2.0, 11.0, 12.0]])
    fields = {}
    for name in ("gt_instances", "pred_instances"):
        fields[name] = found = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
        if masks:
            found.masks = torch.zeros(1, 24, 32, dtype=torch.bool)
            found.masks[0, 3, 5] = True
    found.scores = torch.tensor([0.9])
    return Sample(metainfo={"img_path": str(path)}, **fields)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "small image.png"
    Image.new("RGB", (32, 24), "red").save(path)
    return path


def test_small_images_are_enlarged_with_their_boxes_and_masks(tmp_path, image):
    state = np.random.get_state()[1].copy()
    samples = [instances(image, masks=True) for _ in range(3)]
    samples[0].pred_instances.scores = torch.tensor([0.1])  # below score_thr
    assert not draw(tmp_path, samples[:1] * 3, num_images=2)
    entry, drawn, (truth, prediction) = picture(tmp_path)
    assert truth.shape == (288, 384, 3)  # 12 times: the short side is at least 256
    assert drawn.shape == (288 + entry["legend"], 2 * 384 + 6, 3)
    names = [path.name for path in sorted((tmp_path / "predictions").iterdir())]
    assert names == ["0.png", "1.png", "index.json"]
    assert (entry["image"], entry["panels"]) == ("small image.png", 2)
    assert (prediction == (255, 0, 0)).all()  # the image alone
    colour = COLOURS[1]  # of the second class
    half = [round((x + y) / 2) for x, y in zip(colour, (255, 0, 0), strict=True)]
    # The box 1, 2, 11, 12 and the mask's pixel 3, 5, twelve times as large
    assert near(truth[24, 60], colour) and near(truth[100, 12], colour)
    assert near(truth[144, 60], colour) and near(truth[100, 132], colour)
    assert near(truth[42, 66], half) and (truth[42, 90] == (255, 0, 0)).all()
    legend = drawn[288:, :384]
    assert (legend == colour).all(2).sum() > 80  # its square
    assert (drawn[288:, -384:] == 255).all()
    assert (np.random.get_state()[1] == state).all()  # training must not notice


def test_scores_are_written_but_not_over_each_other(tmp_path, image):
    sample = instances(image)
    alone = sample.pred_instances
    twice = InstanceData(
        bboxes=alone.bboxes.repeat(2, 1) + torch.tensor([[0.0], [0.2]]),
        labels=torch.tensor([0, 0]),
        scores=torch.tensor([0.9, 0.8]),
    )
    found = []
    for prediction in (alone, twice):
        sample.pred_instances = prediction
        assert not draw(tmp_path, [sample])
        _, _, (_, side) = picture(tmp_path)
        found.append(int((side.min(2) > 180).sum()))  # white letters
    assert found[0] > 10 and abs(found[1] - found[0]) < 5


@pytest.mark.parametrize("palette", [None, [[1, 2, 3], [9, 200, 40]]])
def test_semantic_maps_have_a_legend_and_no_text(tmp_path, image, palette):
    labels = torch.zeros(1, 24, 32, dtype=torch.long)
    labels[:, :, 16:] = 1
    labels[:, 0] = 255  # ignored
    maps = {name: PixelData(data=labels) for name in ("gt_sem_seg", "pred_sem_seg")}
    sample = Sample(metainfo={"img_path": str(image)}, **maps)
    assert not draw(tmp_path, [sample], palette=palette)
    _, drawn, sides = picture(tmp_path)
    colours = [tuple(x) for x in palette or COLOURS[:2]]
    for side in sides:
        assert (side[:6] == (255, 0, 0)).all()
        for part, colour in zip(
            (side[24:, :190], side[24:, 194:]), colours, strict=True
        ):
            half = [(x + y) / 2 for x, y in zip(colour, (255, 0, 0), strict=True)]
            assert near(np.median(part.reshape(-1, 3), 0), half)
            assert len(np.unique(part[2:-2, 2:-2].reshape(-1, 3), axis=0)) == 1
    for colour in colours:
        assert (drawn[288:] == colour).all(2).sum() > 2 * 80


def test_a_legend_takes_the_lines_that_it_needs_and_any_name():
    panel = np.zeros((10, 200, 3), np.uint8)
    colours = colours_of(range(30), 30)
    names = [f"a longer name {i}\n\u00e9" for i in range(30)]
    one, many = add_legends([panel] * 2, [[3], range(30)], names, colours)
    assert one.shape == many.shape and one.shape[0] > 10 + 6 * 19
    assert (one[40:] == 255).all() and not (many[40:] == 255).all()
    assert colours[29] == colours[9]  # more classes than colours: by their places


def test_large_images_are_reduced_and_boxes_of_a_box_type_read():
    boxes = types.SimpleNamespace(tensor=torch.tensor([[0.0, 0.0, 200.0, 100.0]]))
    found = Sample(bboxes=boxes, labels=torch.tensor([0]))
    small = enlarged(Sample(pred_instances=found), (100, 200), 0.5)
    assert small.pred_instances.bboxes.tolist() == [[0.0, 0.0, 100.0, 50.0]]


def test_a_long_name_is_shortened_and_none_is_a_number(tmp_path, image):
    panel = np.zeros((10, 120, 3), np.uint8)
    (legend,) = add_legends([panel], [[0]], ["w" * 90], {0: COLOURS[0]})
    assert (legend[10:, -6:] == 255).all() and (legend[10:, :100] < 99).any()
    assert not draw(tmp_path, [instances(image)], classes=None)
    _, drawn, _ = picture(tmp_path)
    assert (drawn[288:] == COLOURS[1]).all(2).sum() > 2 * 80


def test_what_cannot_be_drawn_is_one_warning(tmp_path):
    gone = instances(tmp_path / "gone.png")
    log = draw(tmp_path, [gone, gone])
    assert len(log) == 1 and "gone.png" in log[0] and "goes on without" in log[0]
    assert not (tmp_path / "predictions" / "index.json").exists()
    assert not draw(tmp_path, [Sample(pred_label=3)])  # classification
