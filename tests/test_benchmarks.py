"""The benchmarks' logic at toy size: what they refuse, leave out, fit and write.

No test looks at a time: that is what an idle machine is for.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import DictAction
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "benchmarks"))  # scripts, which import each other

import accuracy_arms  # noqa: E402
import accuracy_time  # noqa: E402
import bases  # noqa: E402
import cell_contents  # noqa: E402
import cells_trainings as trainings  # noqa: E402
import collect  # noqa: E402
import common  # noqa: E402
import embed  # noqa: E402
import gpu  # noqa: E402
import gpu_files  # noqa: E402
import gpu_ours  # noqa: E402
import gpu_peers  # noqa: E402
import gpu_timing  # noqa: E402
import methods  # noqa: E402
import peers  # noqa: E402
import pipeline  # noqa: E402
import plot  # noqa: E402
import plot_methods  # noqa: E402
import recipe  # noqa: E402
import rows  # noqa: E402
import scale  # noqa: E402

from mmssl_ext.errors import Preempted  # noqa: E402
from mmssl_ext.run import launch  # noqa: E402
from mmssl_ext.visualization.logs import RunLog  # noqa: E402
from tests.datasets.helpers import write_cifar  # noqa: E402


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


# --- embed


def test_the_parts_of_embed_do_its_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed, "DRAWN", 3)
    weights, photos = embed.save_weights(tmp_path, 18), embed.draw(tmp_path, 4)
    found = embed.whole(weights, photos)
    assert found.shape == (4, 512)
    np.testing.assert_allclose(found, embed.parts(weights, photos), rtol=1e-4)
    np.testing.assert_allclose(found[3], found[0], rtol=1e-4)  # the same file


# --- common


def test_ratio_is_the_median_of_block_ratios_not_the_ratio_of_medians() -> None:
    # Block ratios 2, 4 and 3: a machine that is slow for a block cancels out.
    value, low, high = common.ratio([2.0, 40.0, 3.0], [1.0, 10.0, 1.0])
    assert value == 3.0
    assert low == 2.0 and high == 4.0


def test_arms_take_turns_and_the_clock_counts_only_their_own_steps() -> None:
    now, calls = [0.0], []

    def arm(name: str, cost: float):
        def run() -> None:
            calls.append(name)
            now[0] += cost

        return run

    arms = {"a": arm("a", 1.0), "b": arm("b", 3.0)}
    seconds = common.time_arms(arms, blocks=2, steps=2, warmups=1, clock=lambda: now[0])
    assert "".join(calls) == "ab" + "abab" * 2
    assert seconds == {"a": [1.0, 1.0], "b": [3.0, 3.0]}


# --- peers


def test_peers_stand_behind_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_peer.py").write_text("name = 'peer'")
    (tmp_path / "safetensors").mkdir()
    (tmp_path / "safetensors" / "__init__.py").write_text("shadow = True")
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert peers.load("toy_peer").name == "peer"
    monkeypatch.delitem(sys.modules, "safetensors", raising=False)
    import safetensors

    assert not hasattr(safetensors, "shadow")


def test_a_peer_that_cannot_be_imported_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_peer.py").write_text("raise OSError('no\\nlibrary')")
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arms, missing = peers.available(
        {
            "there": lambda: 1,
            "broken": lambda: peers.load("broken_peer"),
            "absent": lambda: peers.load("absent_peer"),
        }
    )
    assert arms == {"there": 1}
    assert missing["broken"] == ("broken_peer cannot be imported (OSError: no library)")
    assert "No module named 'absent_peer'" in missing["absent"]


# --- pipeline


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    scale.draw_files(folder, 12)
    return folder


def test_pipeline_measures_every_arm_at_toy_size(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(paths: list[str]) -> None:
        raise peers.PeerMissing("not today")

    monkeypatch.setattr(pipeline, "lightly", missing)
    rows, stages = pipeline.measure(photographs, blocks=1, steps=1, batch=4, checked=8)
    assert [(r["arm"], r["peer"]) for r in rows] == [x[:2] for x in pipeline.RATIOS]
    for row in rows:
        left_out = row["peer"] == "lightly"
        assert row["left_out"] == ("not today" if left_out else "")
        assert (row["speedup"] == "") == left_out
        assert left_out or row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    for backend in ("array", "pil"):
        mine = [r for r in stages if r["backend"] == backend]
        assert [r["stage"] for r in mine] == [
            "DecodeImage",
            *(t["type"] for t in pipeline.our_view()),
            "PackViews",
            "default_collate",
        ]
        assert sum(r["share"] for r in mine) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("fault", ["darker", "sharper", "of less contrast"])
def test_an_arm_with_other_pixels_is_refused(photographs: Path, fault: str) -> None:
    paths = sorted(str(p) for p in photographs.glob("*.jpg"))
    honest = pipeline.torchvision_v1(paths)
    reference = pipeline.look("reference", honest, 12)
    pipeline.agree("itself", pipeline.look("itself", honest, 12), reference)
    change = {
        "darker": lambda x: x * 0.4,
        "sharper": lambda x: x + 40 * (torch.arange(224) % 2),
        "of less contrast": lambda x: x * 0.2 + 100,
    }[fault]

    def other(indices: list[int]) -> list[torch.Tensor]:
        return [change(v.float()).clip(0, 255).byte() for v in honest(indices)]

    with pytest.raises(AssertionError, match="do not do the same job"):
        pipeline.agree("other", pipeline.look("other", other, 12), reference)


def test_a_view_of_another_size_or_kind_is_refused() -> None:
    def wrong(indices: list[int]) -> list[torch.Tensor]:
        return [torch.zeros(len(indices), 3, 192, 192, dtype=torch.uint8)] * 2

    with pytest.raises(AssertionError, match="192"):
        pipeline.look("wrong", wrong, 2)


# --- scale


def test_the_loss_of_both_arms_is_the_same_at_toy_size() -> None:
    loss = scale.Loss(8, 64, 16)
    common.compare(loss.ours(), loss.mmpretrain())


def points(arm: str, power: float, variable: str = "N and K") -> list[dict]:
    return [
        scale.row("peak memory of the loss", variable, arm, k, 3e-4 * k**power, "MB")
        for k in (1024, 4096, 16384)
    ]


def test_fits_give_every_curve_its_own_power_and_range() -> None:
    rows = points("ours", 1.0) + points("mmpretrain", 2.0) + points("ours", 0.0, "K")
    found = {(r["variable"], r["arm"]): r for r in scale.fits(rows)}
    assert found["N and K", "ours"]["exponent"] == 1.0
    assert found["N and K", "mmpretrain"]["exponent"] == 2.0
    assert found["K", "ours"]["exponent"] == 0.0
    assert found["K", "ours"]["from"] == 1024 and found["K", "ours"]["to"] == 16384
    assert scale.fits(points("ours", 1.0)[:2]) == []  # two points fit anything
    # Memory of N times K fails the benchmark.
    scale.check_memory(points("ours", 1.0) + points("mmpretrain", 2.0))
    with pytest.raises(AssertionError, match=r"2\.0th power"):
        scale.check_memory(points("ours", 2.0))


# --- plot


def test_plots_leave_out_what_was_not_measured(results: Path) -> None:
    def write(name: str, rows: list[dict]) -> None:
        with open(results / name, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)

    plot.main()
    assert list(results.iterdir()) == []
    values = dict(speedup=4, speedup_low=3, speedup_high=5, left_out="")
    lost = dict.fromkeys(values, "") | {"left_out": "not installed"}
    measured = {"arm": "ours", "peer": "mmpretrain", "goal": 3.5} | values
    left_out = {"arm": "ours", "peer": "lightly", "goal": ""} | lost
    write("pipeline_cpu.csv", [measured, left_out])
    rows = points("ours", 1.0) + points("mmpretrain", 2.0)
    write("scale_cpu.csv", rows)
    write("scale_fit_cpu.csv", scale.fits(rows))
    plot.main()
    bars = plot.pipeline_bars()
    assert [bar[1:] for bar in bars] == [(4.0, 3.0, 5.0, 3.5)]
    for name in ("ratios.png", "scaling.png"):
        assert (results / name).read_bytes()[:4] == b"\x89PNG"


def test_the_figure_of_all_methods_is_drawn_from_its_csv() -> None:
    with Image.open(common.RESULTS / "methods.png") as figure:
        drawn = figure.text[plot_methods.KEY]
    assert len(plot_methods.scores()["knn"]) > 20
    assert drawn == plot_methods.digest(), "run benchmarks/plot_methods.py"


def test_a_commit_with_changes_is_marked_but_for_results(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout

    csv, code = tmp_path / "benchmarks" / "results" / "a.csv", tmp_path / "code.py"
    csv.parent.mkdir(parents=True)
    csv.write_text("1")
    code.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    short = git("rev-parse", "HEAD")[:10]
    assert common.commit(tmp_path) == short
    csv.write_text("2")
    assert common.commit(tmp_path) == short
    code.write_text("2")
    assert common.commit(tmp_path) == f"{short}+"
    assert common.commit(tmp_path / "nowhere") == ""


def test_short_numbers() -> None:
    sizes = {64: "64", 65536: "64k", 2**20: "1M", 640_000: "640k", 1_281_167: "1.28M"}
    assert {size: plot._short(size) for size in sizes} == sizes


# --- cells and pairs


def test_shares_of_the_variance_are_those_of_which_cells_were_made() -> None:
    place = torch.tensor([[1.0, 0, 0], [-1, 0, 0]])  # P x D, mean 0
    image = torch.tensor([[0, 2.0, 0], [0, -2, 0]])
    both = torch.tensor([[1.0, -1], [-1, 1]])  # follows from neither alone
    cells = place[None] + image[:, None]
    cells[..., 2] += 3 * both
    assert cell_contents.shares(cells) == pytest.approx((1 / 14, 4 / 14, 9 / 14))


def test_a_linear_map_of_cells_finds_classes_that_lie_apart() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 255])
    cells = torch.eye(4)[labels.clamp(max=3)] + 5
    assert cell_contents.linear_miou((cells, labels), (cells, labels), 3) == 100
    swapped = torch.tensor([1, 0, 2, 1, 0, 2, 255])
    found = cell_contents.linear_miou((cells, labels), (cells, swapped), 3)
    assert found == pytest.approx(100 / 3)


def test_difference_in_pairs_has_the_interval_of_student() -> None:
    # mean 2, deviation 1, t of 2 degrees of freedom 4.303: 4.303 / sqrt(3) = 2.484
    assert rows.difference([1.0, 2.0, 3.0]) == "+2.0 (-0.5 to +4.5)"
    assert rows.difference([-1.25]) == "-1.2" and rows.difference([]) == "-"


# --- accuracy against time


@pytest.fixture
def two_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Ours and mmpretrain's, on noise."""
    write_cifar(tmp_path / "cifar")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "cifar"))
    monkeypatch.setattr(accuracy_arms, "BATCH", 8)
    monkeypatch.setattr(accuracy_arms, "QUEUE", 16)
    arms = {name: accuracy_arms.ARMS[name] for name in ("ours", "mmpretrain")}
    monkeypatch.setattr(accuracy_time, "ARMS", arms)
    return arms


def test_arms_of_accuracy_train_in_turn(
    results: Path, tmp_path: Path, two_arms: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each arm is as if it trained alone."""
    found = []
    for chosen in (two_arms, {"mmpretrain": two_arms["mmpretrain"]}):
        monkeypatch.setattr(accuracy_time, "ARMS", chosen)
        out = ["--out", str(tmp_path / f"of{len(chosen)}")]
        assert accuracy_time.main(["--epochs", "1", "--seed", "3", *out]) == 0
        assert accuracy_time.main(["--collect", *out]) == 0
        with open(results / f"{accuracy_time.NAME}.csv", newline="") as file:
            found.append([*csv.DictReader(file)])
    both, alone = found
    assert [(row["arm"], row["epoch"]) for row in both] == [
        *(("ours", "0"), ("mmpretrain", "0"), ("ours", "1"), ("mmpretrain", "1"))
    ]
    assert all(float(row["cpu_s"]) > 0 for row in both if row["epoch"] == "1")
    same = [row["knn_top1"] for row in both if row["arm"] == "mmpretrain"]
    assert same == [row["knn_top1"] for row in alone]


def test_accuracy_goes_on_bit_by_bit(tmp_path: Path, two_arms: dict) -> None:
    def compare(name: str) -> accuracy_time.Comparison:
        return accuracy_time.Comparison(3, None, 2, tmp_path / name)

    whole, stopped = compare("whole.pt"), compare("stopped.pt")
    list(whole.run())
    rounds = stopped.run()
    next(rounds), next(rounds)  # untrained, an epoch
    again = compare("stopped.pt")
    assert again.done == 1 and len(list(again.run())) == 1
    for name in two_arms:
        one, two = (x.arms[name].model.state_dict() for x in (whole, again))
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
    drop = ("wall_s", "cpu_s")
    rows = [[{**row, **dict.fromkeys(drop)} for row in x.rows] for x in (whole, again)]
    assert rows[0] == rows[1] and len(rows[0]) == 4
    with pytest.raises(ValueError, match="delete it or choose another --out"):
        accuracy_time.Comparison(4, None, 2, tmp_path / "stopped.pt")


# --- gpu


def toy() -> gpu_timing.Scale:
    return gpu_timing.Scale(
        torch.device("cpu"), batch=2, size=32, queue=64, blocks=3, steps=2, warmups=1
    )


def test_without_a_gpu_no_figure_is_written(tmp_path: Path) -> None:
    timings = gpu_timing.time_steps({"a": lambda: None, "b": lambda: None}, toy())
    ratios = [("speed-up", "a", "b", 2.0, False, 1), ("speed-up", "a", "c", 0, True, 1)]
    rows = gpu_timing.table("b5", timings, ratios, {"c": "not installed"}, toy())
    with open(gpu_timing.write("b5", rows, tmp_path), newline="") as file:
        written = list(csv.DictReader(file))
    figures = {"value", "low", "high"}
    figures |= {f"{arm}_{x}" for arm in ("above", "below") for x in ("ms", "peak_mb")}
    for row in written:
        assert {row[column] for column in figures} == {"not measured"}
        assert row["gpu"] == row["cuda"] == "none"
    assert written[0]["goal"] == ">= 2.0" and written[1]["goal"] == ""
    assert written[1]["note"] == "c: not installed"


def test_figures_of_a_gpu_come_with_interval_factor_and_the_common_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_timing.Scale, "measures", True)
    monkeypatch.setattr(gpu_timing, "describe", lambda scale: {})
    timings = {
        "peer": gpu_timing.Timing([0.4, 0.8, 0.6, 9.0], int(4e9)),
        "ours": gpu_timing.Timing([0.1, 0.2, 0.2], int(1e9)),  # stopped a block earlier
    }
    ratios = [("per pair", "peer", "ours", 1.1, False, 0.5)]
    (row,) = gpu_timing.table("b5", timings, ratios, {}, toy())
    assert (row["value"], row["low"], row["high"]) == ("2.000", "1.500", "2.000")
    assert row["below_ms"] == "200.000" and row["above_peak_mb"] == "4000"
    assert row["blocks"] == 3


def test_an_arm_that_fails_does_not_cost_the_others_their_figures() -> None:
    def fails() -> None:
        raise RuntimeError("CUDA out of memory.\nand so on")

    timings = gpu_timing.time_steps({"bad": fails, "good": lambda: None}, toy())
    assert list(timings) == ["good"]
    assert len(timings["good"].seconds) == 3
    # No block begins after the time is up.
    short = gpu_timing.Scale(**(vars(toy()) | {"seconds": 0.0}))
    assert len(gpu_timing.time_steps({"a": lambda: None}, short)["a"].seconds) == 2


def test_our_loss_is_mmpretrains_and_another_temperature_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gpu_peers.same_loss(gpu_ours.MOCO, gpu_peers.MMPRETRAIN, toy()) < 1e-5
    dense = "densecl/densecl_r50_imagenet.py", gpu_peers.MMPRETRAIN_DENSECL, toy()
    assert gpu_peers.same_loss(*dense, start_iters=0) < 1e-5
    with pytest.raises(AssertionError, match="do not do the same"):
        gpu_peers.same_loss(*dense)  # without the dense loss before iteration 100
    real = gpu_ours.load_config

    def warmer(path: Path, options: dict):
        return real(path, options | {"tau_ins": 0.21})

    monkeypatch.setattr(gpu_ours, "load_config", warmer)
    with pytest.raises(AssertionError, match="do not do the same"):
        gpu_peers.same_loss(gpu_ours.MOCO, gpu_peers.MMPRETRAIN, toy())


@pytest.mark.parametrize("make", [gpu_peers.lightly_step, gpu_peers.solo_step])
def test_a_step_of_a_peer_runs(make) -> None:
    _, views = gpu_ours.made_up(toy())
    try:
        step = make(toy(), views)
    except peers.PeerMissing as error:
        pytest.skip(str(error))
    step()


@pytest.mark.slow
@pytest.mark.parametrize("bench", gpu.BENCHES)
def test_every_arm_on_a_gpu_runs_at_toy_size(bench: str) -> None:
    rows = gpu.BENCHES[bench](gpu_timing.full_or_toy())
    assert rows
    for row in rows:
        assert "failed" not in row["note"]


def test_looped_files_are_as_many_as_asked_for(photographs: Path) -> None:
    with gpu_files.looped(photographs, toy(), batches=10) as folder:
        files = sorted(folder.iterdir())
        assert len(files) == 20  # batches of 2
        assert len({file.resolve() for file in files}) == 12
        assert all(file.stat().st_size > 0 for file in files)


def test_gpu_sh_says_how_to_use_it_and_knows_every_version() -> None:
    script = REPO / "benchmarks" / "gpu.sh"
    run = subprocess.run(["bash", script, "b4", "out"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "b5|b6|b7|b8|b10|all OUT_DIR" in run.stderr
    text = script.read_text()
    names = " ".join(re.findall(r"^(?:PURE|COMPILED)=\(([^)]*)\)", text, re.M)).split()
    pins = "".join(
        (REPO / "requirements" / f"{name}.txt").read_text()
        for name in ("pinned", "peers")
    )
    assert len(names) > 15
    for name in names:
        assert re.search(rf"^{name}==", pins, re.M), f"{name} has no version"


# --- runs


def left_by_a_chain(folder: Path, metric: str = "90.5") -> Path:
    """What the chain of one method leaves: a table and the configs of its stages."""
    (folder / "configs").mkdir(parents=True)
    rates = {"pretrain": 0.1, "knn-co2-seed1": 0.2, "voc-co2-seed1": 0.3}
    for stage, lr in rates.items():
        (folder / "configs" / f"{stage}.py").write_text(
            f"model = dict(backbone=dict(depth=18))\noptim_wrapper = dict(lr={lr})\n"
        )
    start = f"{folder}/pretrain/epoch_10.pth,{'ab' * 32}"
    (folder / "results.csv").write_text(
        "stage,transfer,source,seed,status,metric,value,seconds,memory_mb,device,"
        "source_checkpoint,source_sha256,torch_version,mmengine_version,reason,top1\n"
        f"pretrain,pretrain,,1,finished,top1,80,9,99,cpu,,,2.4.0,0.10.9,,80\n"
        f"knn-co2-seed1,knn,co2,1,finished,top1,{metric},9,99,cpu,{start},2.4.0,0.10.9,,"
        f"{metric}\nvoc-co2-seed1,voc,co2,1,failed,,,,,,{start},,,full disk,\n"
    )
    return folder


def test_a_chain_becomes_rows_with_hashes_of_settings_and_no_paths(
    tmp_path: Path, results: Path
) -> None:
    collect.main(str(left_by_a_chain(tmp_path / "chain")), name="chain")
    with (results / "chain.csv").open() as file:
        first, second = csv.DictReader(file)  # the failed stage has no row
    assert (first["recipe"], first["source_recipe"]) != ("", "")
    assert second["source_recipe"] == first["recipe"] != second["recipe"]
    assert first["source_recipe"] == first["source_sha256"] == ""
    assert second["source_sha256"] == "ab" * 6
    assert second["torch"] == "2.4.0"  # of the run, not of the one who collects
    assert second["python"] == common.describe_machine()["python"]
    assert str(tmp_path) not in (results / "chain.csv").read_text()


def test_methods_collects_what_has_finished(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture
) -> None:
    left_by_a_chain(tmp_path / "co2-seed1")
    chosen = ["--collect", "--methods", "random", "co2", "--seeds", "1"]
    args = methods.parse_args([*chosen, "--out", str(tmp_path)])
    assert methods.main(args) == 0
    assert "random-seed1 has no results yet" in capsys.readouterr().out
    with (results / f"{methods.NAME}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["transfer"], r["value"]) for r in rows] == [
        ("co2", "pretrain", "80"),
        ("co2", "knn", "90.5"),
    ]
    left_by_a_chain(tmp_path / "detco-seed1")
    for args.methods in (["detco"], ["detco", "random"]):
        assert methods.main(args) == 0  # rows of other runs stay, its own are replaced
        with (results / f"{methods.NAME}.csv").open() as file:
            found = [row["method"] for row in csv.DictReader(file)]
        assert found == ["co2", "co2", "detco", "detco"]
    args.out = tmp_path / "nothing"
    assert methods.main(args) == 1


def test_methods_runs_every_method_with_every_seed(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def call(command, env, cwd, **_) -> int:
        seen.append((env["METHOD"], env["SEED"], env["OMP_NUM_THREADS"]))
        assert (Path(cwd) / command[1]).is_file()
        assert (Path(cwd) / methods.CHAIN).is_file()
        if env["METHOD"] == "co2":
            left_by_a_chain(Path(command[-1]))
        return 1 if seen[-1] == ("detco", "0", "1") else 0

    monkeypatch.setattr(methods.subprocess, "call", call)
    chosen = ["--methods", "co2", "detco", "--seeds", "0", "5"]
    args = methods.parse_args([*chosen, "--out", str(tmp_path / "out")])
    assert methods.main(args) == 1  # one has failed; the others ran, and are collected
    assert seen == [(m, s, "1") for s in "05" for m in ("co2", "detco")]
    assert (results / f"{methods.NAME}.csv").is_file()


@pytest.mark.parametrize("method", [*trainings.LARGE, "mocov2", "byol"])
def test_probes_see_images_as_large_as_the_views_of_a_pretraining(method: str) -> None:
    chain = recipe.chain_of(methods.NAME, method, "0")
    size = 112 if method in trainings.LARGE else 64
    assert chain.stage("pretrain").load().image_size == size
    for probe in ("knn", "linear"):
        assert chain.stage(f"{probe}-{method}-seed0").options["image_size"] == size
    assert trainings.like(method) == ("mocov2_112" if size == 112 else "mocov2")


def test_methods_starts_nothing_more_after_a_preemption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([0, Preempted.exit_code, 0, 0])
    monkeypatch.setattr(methods.subprocess, "call", lambda *_, **__: next(codes))
    runs = [("random", 0), ("co2", 0), ("detco", 0), ("interclr", 0)]
    assert methods.train_all(tmp_path, runs, jobs=1) == Preempted.exit_code
    assert next(codes) == 0  # the third was never asked for
    assert len(list(codes)) == 1


def test_bases_run_by_the_settings_that_their_recipe_has(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    commands = {}

    def call(command, **_) -> int:
        place = Path(command[command.index("--work-dir") + 1])
        commands[place.name] = command
        return 0

    monkeypatch.setattr(methods.subprocess, "call", call)
    args = bases.parse_args(["--out", str(tmp_path), "--repacked", "--seeds", "1"])
    assert bases.main(args) == 1
    assert "Nothing has finished" in capsys.readouterr().out
    names = ("mocov2", "byol", "simclr", "co2", "byol-co2")
    assert list(commands) == [f"{n}-seed1" for n in names]
    for name, command in commands.items():
        config, text = command[2], command[command.index("--cfg-options") + 1 :]
        assert "--resume" in command and f"randomness.seed={name[-1]}" in text
        cfg = launch.load_config(REPO / config, parsed(text))
        assert cfg.train_cfg.max_epochs == bases.EPOCHS
        assert cfg.model.type == bases.BASES[name.split("-seed")[0]][1]
        assert cfg.model.backbone.base_channels == 16  # a quarter
        assert cfg.optim_wrapper.optimizer.weight_decay == 5e-4
        assert cfg.train_dataloader.batch_size == 256
        assert not cfg.train_dataloader.dataset.verify_md5
        row = {"config": Path(config).name, "seed": name[-1], "method": cfg.model.type}
        assert recipe.present(bases.NAME, row)[0] == recipe.recipe(cfg)


def parsed(options: list[str]) -> dict:
    """Options of the command line as the tools read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


def test_bases_collect_runs_that_have_reached_the_last_epoch(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log(place: Path) -> RunLog:
        epochs = (0, 2, 4) if place.name == "byol-seed1" else (0, 2)
        return RunLog(train=[], knn=[{"epoch": epoch} for epoch in epochs])

    def rows(place: Path) -> list[dict]:
        return [{"run": place.name, "config": "a.py", "epoch": n} for n in (0, 2, 4)]

    for name, seed in product(bases.BASES, (0, 1)):
        (tmp_path / f"{name}-seed{seed}").mkdir()
    monkeypatch.setattr(bases.logs, "read_run", log)
    monkeypatch.setattr(bases, "run_rows", rows)
    args = bases.parse_args(["--collect", "--out", str(tmp_path)])
    assert bases.main(args) == 0
    with (results / "cifar10_bases_cpu.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["epoch"] for row in found] == ["0", "2", "4"]
    assert "run" not in found[0] and {"torch", "cpu"} <= found[0].keys()
