import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from mmssl_ext.chain import plots as chain_plots
from mmssl_ext.chain.data import Results
from mmssl_ext.chain.report import headline, main, write_chain_report

from .chain_fixture import (
    DIGEST,
    TITLES,
    make_chain,
    make_full_chain,
    result,
    write_stage,
)
from .test_report import Page, assert_legible_on_a_phone, assert_stands_alone

SCORES = {
    "voc": {
        "pretrained": [(30.44, 52.0), (31.0, 50.0)],
        "random": [(21.0, 40.0), (22.0, 42.0)],
        "other": [(33.0, 55.0), ()],
    },
    "city": {"pretrained": [(41.0,), (41.2,)], "random": [(44.0,), (44.4,)]},
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    work_dir = make_full_chain(tmp_path_factory.mktemp("chain"), SCORES)
    reason = "RuntimeError: <out of memory>"
    write_stage(work_dir, "voc-other-seed1", None, status="failed", reason=reason)
    mmseg = {"versions": {"torch": "2.11.0", "mmseg": "1.4.2"}}
    for i in range(2):
        for source in ("random", "pretrained"):
            path = work_dir / f"city-{source}-seed{i}" / "result.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | mmseg))
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    return work_dir, Page(text), text


def test_page_needs_nothing_but_itself(reported):
    _, page, text = reported
    assert_stands_alone(page, text)
    assert_legible_on_a_phone(text)
    names = [value for name, value in page.attributes if name == "name"]
    assert "viewport" in names
    assert "prefers-color-scheme: dark" in text


def test_one_page_has_all(reported):
    _, page, _ = reported
    contents = {
        "transfer": ("VOC detection, AP", "30.7 ± 0.4 +9.2"),
        "plots": ("Headline metrics", "Cityscapes <segmentation>"),
        "predictions": ("ground truth", "pretrained"),
        "pretraining": ("CO2 on ImageFolder 'photos & more'", "31.4 %→55.6 %"),
        "curves-knn": ("Training loss", "kNN accuracy", "Learning rate"),
        "health": ("Spread of embeddings", "Effective rank", "Positive-negative gap"),
        "pictures": ("Maps as colours", "Objects stand out."),
        "environment": ("python tools/train.py co2.py", "NVIDIA Big"),
        "warnings": ("Image <i>.jpg was replaced.",),
        "stages": ("pretrain", "118 of 120", "2.0 GiB", "1 min 23 s"),
        "configs": ("name = '<pretrain>'", "name = '<voc-random-seed0>'"),
        "hashes": (DIGEST, DIGEST[::-1]),
    }
    assert list(page.sections) == list(contents)
    for name, texts in contents.items():
        for text in texts:
            assert text in page.sections[name], (name, text)
    # Of each transfer, one config stands for all; the other is beside the page.
    assert "<voc-random-seed1>" not in page.text
    stages = page.sections["stages"]
    assert "torch 2.11.0," in stages and "mmseg 1.4.2 (city)" in stages
    assert "mmdet 3.5.1 (pretrain, voc)" in stages
    assert stages.count("118 of 120") == 2 + 1 + 2  # not those from random
    assert "Pretraining: Error in the log: A worker died." in page.text


def test_headline_counts_and_names_what_is_worse(reported):
    work_dir, page, _ = reported
    assert headline(work_dir) == (
        "On 1 of 2 rows, 'pretrained' is above random initialisation. The largest gain "
        "is on VOC detection (+9.2). BELOW random initialisation: Cityscapes "
        "<segmentation> (-3.1)."
    )
    assert "1 of 2" in page.text
    assert headline(work_dir) in page.text


def table_rows(text):
    body = text[text.index("<h2>Results") : text.index("<h2>Plots")]
    return {
        re.search(r'row">(.*?)</th>', row)[1]: [
            re.sub(r"<(?!/?b>)[^>]*>", "", cell)
            for cell in re.findall(r"<td.*?>(.*?)</td>", row)
        ]
        for row in re.findall(r"<tr.*?>(<th scope=.row.*?)</tr>", body)
    }


def test_table_of_transfers_and_sources(reported):
    _, _, text = reported
    head = re.findall(r'<th scope="col">(.*?)</th>', text)[:4]
    assert head == ["Transfer, metric", "random", "pretrained", "other"]
    assert table_rows(text) == {
        # means 21.5, 30.72, 33; deviations sqrt(0.5), 0.56 / sqrt(2)
        "VOC detection, AP": ["21.5 ± 0.7", "30.7 ± 0.4 +9.2", "<b>33.0</b> +11.5"],
        "AP50": ["41.0 ± 1.4", "51.0 ± 1.4 +10.0", "<b>55.0</b> +14.0"],
        "Cityscapes &lt;segmentation&gt;, mIoU": [
            "<b>44.2 ± 0.3</b>",
            "41.1 ± 0.1 -3.1",
            "none",
        ],
    }


def test_failed_stages_and_plots(reported):
    work_dir, page, text = reported
    assert "voc-other-seed1 failed: RuntimeError: <out of memory>" in page.text
    assert "voc-other-seed1/chain.log" in page.text
    assert "knn/backbone_top1 61.25" in page.text
    plots = {path.name for path in (work_dir / "plots").iterdir()}
    assert plots == {"comparison.png", "curve_voc.png", "curve_city.png"}
    assert text.count("<svg") == 3 + 8  # of the transfers, of the pretraining


def test_names_of_metrics_and_their_marks_do_not_touch(tmp_path):
    title = "Semantic segmentation in the layout of Cityscapes, and more"
    scores = {"city": {"random": [(40.0,), (42.0,)], "pretrained": [(1.0,), (99.0,)]}}
    work_dir = make_chain(tmp_path, scores)
    chain = work_dir / "chain.json"
    chain.write_text(chain.read_text().replace(TITLES["city"], title))
    figure = chain_plots.comparison_figure(Results(work_dir))
    figure.canvas.draw()
    (axes,) = figure.axes
    (name,) = axes.texts
    box = name.get_window_extent()
    assert name.get_text().startswith("Semantic segmentation")
    assert axes.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1
    assert box.y1 < axes.bbox.y1
    for line in axes.get_lines():
        if len(points := line.get_xydata()) and line.get_marker() != "None":
            top = axes.transData.transform(points)[:, 1].max()
            radius = line.get_markersize() / 2 * figure.dpi / 72
            assert top + radius < box.y0


def test_predictions_stand_beside_the_ground_truth(reported):
    _, _, text = reported
    pictures = re.findall(r'<img src="data:image/jpeg;base64,(.*?)" alt="(.*?)"', text)
    found = []
    for data, alt in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (320, 160)
            found.append((alt, picture.convert("RGB").getpixel((160, 80))))
    near = [(alt, tuple(round(c / 255) for c in color)) for alt, color in found]
    assert near == [
        (f"{what} of scene{i}.jpg", color)
        for i in range(2)
        for what, color in (
            ("ground truth", (1, 1, 1)),
            ("random", (1, 0, 0)),
            ("pretrained", (0, 0, 1)),
        )
    ]


def test_differences_within_the_spread_of_the_seeds_are_called_so(tmp_path):
    scores = {"city": {"random": [(40.0,), (42.0,)], "pretrained": [(41.0,), (43.0,)]}}
    text = headline(make_chain(tmp_path, scores))
    assert text.endswith("Within the spread of the seeds: Cityscapes <segmentation>.")


@pytest.mark.parametrize("seeds", [[()], []])
def test_a_chain_that_has_only_begun(tmp_path, seeds, capsys):
    scores = {"city": {"random": seeds, "pretrained": seeds}}
    work_dir = make_chain(tmp_path, scores)
    assert main([str(work_dir)]) == 0
    total = 1 + 2 * len(seeds)
    assert f"1 of {total} stages have finished" in capsys.readouterr().out
    text = (work_dir / "chain.html").read_text()
    assert "No transfer has finished yet." in text


def test_without_random_initialisation_or_pretraining(tmp_path):
    work_dir = make_chain(tmp_path, {"city": {"given": [(41.0,)]}}, pretrained=False)
    page = Page(write_chain_report(work_dir).read_text(encoding="utf-8"))
    assert "no pair of pretrained and random" in page.text
    assert "41.0" in page.text


def test_what_is_missing_is_said(tmp_path):
    scores = {"city": {"random": [(1.0,)], "given": [(2.0,)]}}
    work_dir = make_chain(tmp_path, scores, pretrained=False)
    path = work_dir / "city-given-seed0" / "result.json"
    found = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: found[k] for k in ("metrics", "headline", "seconds")})
    )
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert_stands_alone(page, text)
    for name, sentence in {
        "pretraining": "This chain pretrains nothing itself; it starts from given "
        "checkpoints, 'given'.",
        "predictions": "No transfer has drawn predictions",
        "configs": "The folder configs/ of this chain holds none.",
        "stages": "unknown (city-given-seed0)",
    }.items():
        assert sentence in page.sections[name]
    # A pretraining that left nothing but its result:
    work_dir = make_chain(tmp_path / "other", scores)
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert_stands_alone(page, text)
    for name, sentence in {
        "curves-knn": "No loss is in the logs",
        "health": "No health measures are in the logs",
        "pictures": "No pictures of what was learned were drawn.",
        "environment": "The run left no run.json",
    }.items():
        assert sentence in page.sections[name]


def test_many_hashes_are_folded(tmp_path):
    scores = {"city": {"random": [(float(i),) for i in range(12)]}}
    text = write_chain_report(make_chain(tmp_path, scores)).read_text(encoding="utf-8")
    assert "<summary>13 stages</summary>" in text
    assert_stands_alone(Page(text), text)


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FRAME = """<!doctype html><iframe src="PAGE" style="width: WIDTHpx; height: 800px;
border: 0"></iframe><script>
onload = () => {
  const inside = document.querySelector("iframe").contentDocument;
  const letters = inside.createTreeWalker(inside.body, NodeFilter.SHOW_TEXT);
  const sizes = [];
  while (letters.nextNode()) {
    const element = letters.currentNode.parentElement;
    if (!letters.currentNode.data.trim() || element.closest("style, script")) continue;
    const size = parseFloat(getComputedStyle(element).fontSize);
    const drawn = element.getScreenCTM && element.getScreenCTM();
    sizes.push(drawn ? size * Math.hypot(drawn.a, drawn.b) : size);
  }
  const figures = inside.querySelectorAll("svg");
  const root = inside.documentElement;
  document.title = [root.clientWidth, root.scrollWidth, Math.min(...sizes),
    sizes.length, figures.length];
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to lay out the page")
@pytest.mark.parametrize("width", [400, 1280])
def test_widths_in_a_browser(reported, tmp_path, width):
    _, page, text = reported
    # What is folded is seen too.
    text = text.replace("<details><summary>", "<details open><summary>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    frame = FRAME.replace("PAGE", "page.html").replace("WIDTH", str(width))
    (tmp_path / "frame.html").write_text(frame)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", "--allow-file-access-from-files"]
    command += ["--disable-background-networking", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900"]
    command += [(tmp_path / "frame.html").as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answer = re.search("<title>(.*?)</title>", found.stdout)[1].split(",")
    inner, whole, smallest, letters, figures = map(float, answer)
    assert inner == whole == width
    assert smallest >= 11.95
    assert letters > 300
    assert figures == page.tags.count("svg")


def test_a_metric_that_is_undefined(tmp_path):
    work_dir = make_chain(tmp_path, {"city": {"random": [(1.0,), ()]}})
    undefined = result({"mIoU": 0.0}) | {"metrics": {"mIoU": None}}
    undefined["curve"] = {"iterations": [], "epochs": [], "values": []}
    write_stage(work_dir, "city-random-seed1", undefined)
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    assert table_rows(text) == {"Cityscapes &lt;segmentation&gt;, mIoU": ["<b>1.0</b>"]}


def test_no_chain(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "holds no chain.json" in capsys.readouterr().err
