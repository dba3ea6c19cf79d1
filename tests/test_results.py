"""Figures in the pages, their CSVs, and the configs that they were measured with.

A page that disagrees with a CSV, a CSV that disagrees with its config, a figure that
somebody wrote by hand and a published figure beside an own one all fail here.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "benchmarks"))  # scripts, which import each other

import cells_trainings as trainings  # noqa: E402
import recipe  # noqa: E402
import rows as figures  # noqa: E402
import table_list  # noqa: E402
import tables  # noqa: E402

from mmssl_ext.datasets import ImageFolder  # noqa: E402
from mmssl_ext.datasets.demo import make_demo  # noqa: E402
from mmssl_ext.run.launch import load_config  # noqa: E402
from mmssl_ext.transfer.detection import CocoDetectionDataset  # noqa: E402
from mmssl_ext.transfer.segmentation import SegmentationMetric  # noqa: E402

CSVS = sorted(path.stem for path in figures.RESULTS.glob("*.csv"))
SEEDED = [name for name in CSVS if "seed" in figures.read(name)[0]]
OWN_LOOP = {"accuracy_time_cpu"}  # its settings are those of its script, in no config
TRAININGS = [name for name in SEEDED if name not in OWN_LOOP]
PAGES = [str(page.relative_to(REPO)) for page in tables.pages()]

# What a column of measured figures is called, and what such a figure looks like.
MEASURED = re.compile(
    r"\b(knn|linear|svm|ap\d*|miou|top-?1|accuracy|auc|ms|seconds|minutes|mb|gb|memory|"
    r"speed-?up|ratio|faster|images per second|throughput)\b",
    re.IGNORECASE,
)
FIGURE = re.compile(r"\d[\d,]*\.\d|\d ?±|\d \(\d[\d.]* to |\d (ms|MB|GB|%)")
SPREAD = re.compile(r"\d ?± ?\d|\d \(\d[\d.]* to \d")
PERCENT = re.compile(r"\d\.\d+ ?(%|mIoU|AP\b)|± ?\d")
PUBLISHED = re.compile(r"published|reported|authors'", re.IGNORECASE)
OWN = re.compile(r"\b(own|ours|here|this package)\b|benchmarks/results", re.IGNORECASE)


def split(text: str) -> list[tuple[str, list[str]]]:
    """The tables of a page that stand outside of markers, with their headings."""
    text = tables.TABLE.sub("", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    headings: dict[int, str] = {}
    found: list[tuple[str, list[str]]] = []
    last = ""
    for line in text.splitlines():
        if match := re.match(r"(#+) (.*)", line):
            level = len(match[1])
            headings = {k: v for k, v in headings.items() if k < level}
            headings[level] = match[2]
        if line.startswith("|"):
            if not last.startswith("|"):
                found.append((" / ".join(headings.values()), []))
            found[-1][1].append(line)
        last = line
    return found


def own_columns(lines: list[str]) -> list[str]:
    """Headers of the columns that look measured and do not say that they are not."""
    rows = [line.strip("|").split("|") for line in lines]
    found = []
    for i, name in enumerate(rows[0]):
        column = "\n".join(row[i] for row in rows[2:] if i < len(row))
        measured = MEASURED.search(name) and FIGURE.search(column)
        if (measured or SPREAD.search(column)) and not PUBLISHED.search(name):
            found.append(name)
    return found


def by_hand(text: str) -> list[str]:
    """Tables of measured figures, and such figures in prose, that no CSV stands for."""
    found = []
    for headings, lines in split(text):
        if "Published" in headings:
            continue
        rows = any(
            MEASURED.search(line.split("|")[1]) and FIGURE.search(line.split("|", 2)[2])
            for line in lines[2:]
        )
        if own_columns(lines) or rows:
            found.append(lines[0])
    text = tables.VALUE.sub("", tables.TABLE.sub("", text))
    text = re.sub(r"^```.*?^```|^\|.*$|`[^`]*`", "", text, flags=re.M | re.S)
    for section in re.split(r"^(?=#+ )", text, flags=re.M):
        if "Published" not in section.split("\n")[0]:
            found += [line for line in section.splitlines() if PERCENT.search(line)]
    return found


def mixed(text: str) -> list[str]:
    """Tables that hold published figures beside own ones, or where own ones stand."""
    found = []
    for headings, lines in split(text):
        published = "Published" in headings
        if PUBLISHED.search(lines[0]) and not published and own_columns(lines):
            found.append(lines[0])
        if (published or PUBLISHED.search(lines[0])) and OWN.search(lines[0]):
            found.append(lines[0])
    heading = ""
    for part in re.split(r"(^#+ .*$)", text, flags=re.M):
        heading = part if part.startswith("#") else heading
        if "Published" in heading:
            found += [match[0].split("\n")[0] for match in tables.TABLE.finditer(part)]
    return found


def unnamed(names: list[str], texts: list[str]) -> list[str]:
    """CSVs that no page names."""
    return [name for name in names if not any(f"{name}.csv" in t for t in texts)]


# --- the repository


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_a_page_are_those_of_the_csvs_and_none_is_by_hand(page: str) -> None:
    text = (REPO / page).read_text(encoding="utf-8")
    assert text == tables.fill(text, REPO / page), "Run `python benchmarks/tables.py`."
    assert not mixed(text)
    assert not by_hand(text)


@pytest.mark.parametrize(
    "seeds", ["first", pytest.param("all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", TRAININGS)
def test_settings_of_a_result_are_those_of_its_config(name: str, seeds: str) -> None:
    checked, rows = set(), figures.read(name)
    for row in rows:
        if seeds == "first" and row["seed"] != rows[0]["seed"]:
            continue
        now = recipe.present(name, row)
        assert now == (row["recipe"], row.get("source_recipe", "")), (
            f"{name}.csv: the settings of {row} have changed since. Measure again, or "
            "take the result away."
        )
        checked.add(now)
    assert all(first for first, _ in checked)


def test_every_csv_is_named_by_a_page() -> None:
    texts = [page.read_text(encoding="utf-8") for page in tables.pages()]
    assert not unnamed(CSVS, texts)
    assert unnamed(["step_cpu", "old"], ["see [x](results/step_cpu.csv)"]) == ["old"]


@pytest.mark.parametrize("name", sorted({*CSVS} - {"upstream_faults"}))
def test_every_row_names_commit_threads_and_vector_units(name: str) -> None:
    for row in figures.read(name):
        assert all(row[key] for key in ("commit", "threads", "vector_units")), row


def test_sources_of_a_comparison_share_the_settings_of_the_transfer() -> None:
    for name in set(TRAININGS) & recipe.CHAINS.keys():
        found: dict[tuple[str, str, bool], set[str]] = {}
        for row in figures.read(name):
            if row.get("transfer", "pretrain") != "pretrain":
                # Probes see images as large as the views of a pretraining.
                probe = row["transfer"] in ("knn", "linear")
                large = probe and row.get("method") in trainings.LARGE
                key = row["transfer"], row["seed"], large
                found.setdefault(key, set()).add(row["recipe"])
        alone = ("demo_knn_cpu", "cell_contents_cpu")  # of pretrainings alone
        assert found or name in alone
        assert all(len(hashes) == 1 for hashes in found.values())


# --- each of these fails


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results to put wrong."""
    shutil.copytree(figures.RESULTS, tmp_path / "results")
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    figures.read.cache_clear()
    yield tmp_path / "results"
    figures.read.cache_clear()


def edit(path: Path, change) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figures.read.cache_clear()


def test_check_prints_a_diff_and_writing_mends_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "# A\n<!-- table: steps -->\n<!-- /table -->\n"
        "x <!-- value: checkpoint_cpu scope=hook stall_ratio .3f --><!-- /value -->.\n"
    )
    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    assert tables.main(check=True) == 1
    assert tables.main(check=False) == 0
    assert tables.main(check=True) == 0
    assert "0.157<!-- /value -->." in page.read_text()
    assert "](results/step_cpu.csv)" in page.read_text()

    def slower(rows: list[dict]) -> None:
        rows[0]["value"] = "1.23"

    edit(results / "step_cpu.csv", slower)
    capsys.readouterr()
    assert tables.main(check=True) == 1
    diff = capsys.readouterr().out
    assert "-| CO2 / MoCo | 1.07 (1.05 to 1.09) |" in diff
    assert "+| CO2 / MoCo | 1.23 (1.05 to 1.09) |" in diff


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("<!-- table: stepps -->\n<!-- /table -->", "no table 'stepps'"),
        ("<!-- value: step_cpu depth=18 value --><!-- /value -->", "12 rows of"),
        ("<!-- value: stepcpu depth=18 value --><!-- /value -->", "no benchmarks/res"),
    ],
)
def test_a_marker_that_names_nothing_ends_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, complaint: str
) -> None:
    (tmp_path / "README.md").write_text(f"{marker}\n")
    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    with pytest.raises(SystemExit, match=rf"README\.md: .*{complaint}"):
        tables.main(check=True)


@pytest.mark.parametrize(
    "text",
    [
        "| method | kNN, top-1 |\n|---|---|\n| CO2 | 91.5 |",
        "| | A | B |\n|---|---|---|\n| detection, AP | 37.2 | 40.3 |",
        "| | A |\n|---|---|\n| x | 34.2 ± 0.4 |",
        "| | A |\n|---|---|\n| x | 6.4 (2.9 to 7.4) |",
        "kNN rose to 46.7 % after 12 epochs.",
        "## Published\n\nfine: 68.0 %.\n\n## Own results\n\nkNN rose to 46.7 %.",
    ],
)
def test_figures_by_hand_are_found(text: str) -> None:
    assert len(by_hand(text)) == 1
    assert not by_hand(f"## Published results\n\n{text.split('## Own')[0]}")


def test_settings_and_lists_are_no_measured_figures() -> None:
    assert not by_hand(
        "| config | alpha, tau_con |\n|---|---|\n| a.py | 0.3, 0.05 |\n\n"
        "| config | published mIoU |\n|---|---|\n| a.py | 67.5 |\n\n"
        "| log(K + 1) | queue |\n|---|---|\n| 4.86 | 128 |\n\n"
        "Needs torch 2.4; 10 % of the images; lr 0.03.\n\n"
        "```text\nkNN 46.7 %\n```\n"
        "<!-- value: checkpoint_cpu scope=hook stall_ratio -->46.7 %<!-- /value -->"
    )


@pytest.mark.parametrize(
    "text",
    [
        "| method | published | AP |\n|---|---|---|\n| CO2 | 68.0 | 40.3 |",
        "| method | published AP | ours |\n|---|---|---|\n| CO2 | 68.0 | 40.3 |",
        "## Published\n\n| method | paper | ours |\n|---|---|---|\n| CO2 | 68 | 40 |",
        "## Published\n\n<!-- table: bccd -->\n<!-- /table -->",
    ],
)
def test_published_figures_beside_own_ones_are_found(text: str) -> None:
    assert len(mixed(text)) == 1


# --- recipes


CONFIG = REPO / "configs" / "interclr" / "interclr_r18_demo.py"


@pytest.fixture(scope="module")
def plain() -> str:
    return hashed({})


def hashed(options: dict) -> str:
    with recipe.at_home():
        return recipe.recipe(load_config(CONFIG, options))


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.05},
        {"randomness.seed": 1},
        {"strides": (1, 2, 1, 1)},
        {"augment_on": "device"},
        {"train_dataloader.dataset.pipeline.1.views.0.0.scale": (0.3, 1.0)},
        {"default_hooks.knn.k": 5},
    ],
    ids=str,
)
def test_what_decides_a_result_changes_the_recipe(options: dict, plain: str) -> None:
    assert hashed(options) != plain


def test_what_decides_nothing_keeps_the_recipe(plain: str) -> None:
    options = {
        "train_dataloader.num_workers": 7,
        "train_dataloader.timeout": 3,
        "train_dataloader.persistent_workers": False,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.logger.interval": 1,
        "default_hooks.knn.interval": 1,
        "work_dir": "elsewhere",
        "log_level": "DEBUG",
        "augment_on": "worker",
    }
    assert hashed(options) == plain


def test_a_recipe_is_that_of_the_dumped_config_wherever_the_data_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: str
) -> None:
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path / "scenes"))
    cfg = load_config(CONFIG)
    assert str(tmp_path) in cfg.train_dataloader.dataset.root
    cfg.dump(tmp_path / "dumped.py")
    assert recipe.recipe(Config.fromfile(tmp_path / "dumped.py")) == plain
    monkeypatch.delenv("DEMO_ROOT")  # now the place is unknown
    assert recipe.recipe(Config.fromfile(tmp_path / "dumped.py")) != plain


def test_a_transfer_has_one_recipe_for_all_sources() -> None:
    path = REPO / "configs/transfer/detection/faster_rcnn_r50_fpn_voc0712.py"
    hashes = {
        recipe.recipe(load_config(path, {"checkpoint": checkpoint, "lr": lr}))
        for checkpoint in (None, "a/epoch_1.pth", "b/epoch_2.pth")
        for lr in (0.01, 0.02)
    }
    assert len(hashes) == 2  # of the learning rates


def test_what_took_the_place_of_something_gives_the_same_on_demo_scenes(
    tmp_path: Path,
) -> None:
    make_demo(tmp_path, train=9, test=6, size=80, progress=False)
    view = [dict(type="DecodeImage"), dict(type="ResizeShort", size=64)]
    crop = dict(type="CenterCrop", size=64)
    folder = dict(root=str(tmp_path / "imagenet/test"), labels="subfolders")
    one, other = (
        ImageFolder(**folder, pipeline=[*view, *end, dict(type="PackViews")])
        for end in ([], [crop])
    )
    assert len(one) == 6
    for a, b in zip(one, other, strict=True):
        assert a["inputs"][0].equal(b["inputs"][0])

    text = json.loads(
        (tmp_path / "coco/annotations/instances_val2017.json").read_text()
    )
    classes = tuple(category["name"] for category in text["categories"])
    files = dict(
        data_root=str(tmp_path / "coco"),
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017"),
        metainfo=dict(classes=classes),
        pipeline=[],
    )
    upstream = CocoDetectionDataset.__mro__[1]
    assert f"mmssl_ext.{CocoDetectionDataset.__name__}" in recipe.REPLACED
    assert upstream.__name__ in recipe.REPLACED.values()
    one, other = upstream(**files), CocoDetectionDataset(**files)
    assert one.cat2label == other.cat2label
    assert [*map(one.get_data_info, range(6))] == [*map(other.get_data_info, range(6))]

    rows = []
    for metric in (SegmentationMetric.__mro__[1](), SegmentationMetric()):
        metric.dataset_meta = dict(classes=("a", "b", "c"))
        for seed in range(3):
            rng = torch.Generator().manual_seed(seed)
            said, true = torch.randint(3, (2, 1, 8, 8), generator=rng)
            sample = dict(pred_sem_seg=dict(data=said), gt_sem_seg=dict(data=true))
            metric.process({}, [sample])
        rows.append(metric.evaluate(3))
    assert rows[0] == rows[1]


# --- cells


def test_numbers_have_three_digits_and_the_deviation_of_a_sample() -> None:
    # (1 + 0 + 1) / (3 - 1) = 1; the population's would be 0.8.
    assert figures.mean([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert (figures.mean([2.0]), figures.mean([])) == ("2.0", "-")
    numbers = {0.157: "0.16", 6.45: "6.45", "20.45": "20.4", 1392.6: "1,393"}
    assert {number: figures.short(number) for number in numbers} == numbers


def test_methods_are_averaged_over_their_seeds(results: Path) -> None:
    path = results / f"{table_list.DEMO}.csv"
    header = "method,transfer,seed,metric,value,torch,cpu\n"
    values = {"random": (30, 31, 32), "mocov2": (60, 62, 64), "co2": (70, 71, 75)}
    path.write_text(
        header
        + "".join(
            f"{method},{transfer},{seed},x,{value},2.11.0,EPYC\n"
            for method, row in values.items()
            for transfer in ("knn", "voc")
            for seed, value in enumerate(row)
        )
    )
    figures.read.cache_clear()
    cells = trainings.demo_methods(table_list.DEMO, "co2")
    assert [row[0] for row in cells[1:]] == ["random weights", "MoCo v2", "CO2"]
    # co2: mean 72, squares 4 + 1 + 9 = 14, / 2 = 7, root 2.6
    assert cells[3] == ["CO2", "64 px", "72.0 ± 2.6", "-", "72.0 ± 2.6", "-"]
    assert "n = 3 seeds" in tables.render("demo_methods", REPO / "README.md")


def test_methods_with_two_seeds_stand_beside_what_a_step_costs(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "method,transfer,seed,metric,value,torch,cpu\n"
    values = {"random": (30, 31), "mocov2": (60, 62), "msf": (70,)}
    rows = [
        f"{method},{transfer},{seed},x,{value},2.11.0,EPYC\n"
        for method, row in values.items()
        for transfer in ("knn", "linear")
        for seed, value in enumerate(row)
    ]
    (results / f"{table_list.DEMO}.csv").write_text(header + "".join(rows))
    costs = "method,value,peak_mb,torch,cpu\nmocov2,1.0,137,2.11.0,EPYC\n"
    (results / "cost.csv").write_text(costs)
    figures.read.cache_clear()
    cells = trainings.all_methods(table_list.DEMO, "cost")
    assert cells[1:] == [  # a method with one seed has no row yet
        ["random weights", "-", "30.0 / 31.0", "30.0 / 31.0", "-", "-"],
        [
            "[MoCo v2](root:configs/mocov2/README.md)",
            *("2003.04297", "60.0 / 62.0", "60.0 / 62.0", "1.00", "137 MB"),
        ],
    ]
    table = table_list.Table((table_list.DEMO, "cost"), trainings.all_methods, "")
    for page, link in (("README.md", "configs"), ("docs/results.md", "../configs")):
        monkeypatch.setattr(tables, "TABLES", {"all": table})
        shown = tables.render("all", REPO / page)
        assert f"[MoCo v2]({link}/mocov2/README.md)" in shown
