import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from mmssl_ext.chain.report import headline, main, write_chain_report

from .chain_fixture import (
    DIGEST,
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


def read(work_dir):
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    page = Page(text)
    assert_stands_alone(page, text)
    return page, text


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    work_dir = make_full_chain(tmp_path_factory.mktemp("chain"), SCORES)
    reason = "RuntimeError: <out of memory>"
    write_stage(work_dir, "voc-other-seed1", None, status="failed", reason=reason)
    mmseg = {"versions": {"torch": "2.11.0", "mmseg": "1.4.2"}}
    for name in (f"city-{s}-seed{i}" for s in ("random", "pretrained") for i in (0, 1)):
        path = work_dir / name / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | mmseg))
    return work_dir, *read(work_dir)


def test_one_page_has_all(reported):
    work_dir, page, text = reported
    assert_legible_on_a_phone(text)
    assert {"name": "viewport"}.items() <= page.all("meta")[2].items()
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
        "stages": ("knn/backbone_top1 61.25", "118 of 120", "2.0 GiB", "1 min 23 s"),
        "configs": ("name = '<pretrain>'", "name = '<voc-random-seed0>'"),
        "hashes": (DIGEST, DIGEST[::-1]),
    }
    assert list(page.sections) == list(contents)
    for name, texts in contents.items():
        for found in texts:
            assert found in page.sections[name], (name, found)
    # Of each transfer, one config stands for all; the other is beside the page.
    assert "<voc-random-seed1>" not in page.text
    stages = page.sections["stages"]
    assert "torch 2.11.0," in stages and "mmseg 1.4.2 (city)" in stages
    assert "mmdet 3.5.1 (pretrain, voc)" in stages
    assert stages.count("118 of 120") == 2 + 1 + 2  # not those from random
    reason = "RuntimeError: <out of memory> (voc-other-seed1/chain.log)"
    assert f"voc-other-seed1 failed: {reason}" in page.text
    assert "Pretraining: Error in the log: A worker died." in page.text
    plots = {path.name for path in (work_dir / "plots").iterdir()}
    assert plots == {"comparison.png", "curve_voc.png", "curve_city.png"}
    assert text.count("<svg") == 3 + 8  # of the transfers, of the pretraining


def test_what_the_chain_says_of_its_data_and_reading_it_anew(tmp_path):
    work_dir = make_chain(tmp_path, {"city": {"random": [(40,)]}})
    page, _ = read(work_dir)
    assert "refresh" not in [meta.get("http-equiv") for meta in page.all("meta")]
    file = work_dir / "chain.json"
    known = json.loads(file.read_text()) | {"note": "Scenes <drawn> for a demo."}
    file.write_text(json.dumps(known))
    text = write_chain_report(work_dir, going=True).read_text("utf-8")
    page = Page(text)
    assert "Scenes <drawn> for a demo." in page.text
    (meta,) = [meta for meta in page.all("meta") if meta.get("http-equiv") == "refresh"]
    assert 5 <= int(meta["content"]) <= 60


def test_headline_counts_and_names_what_is_worse(reported):
    work_dir, page, _ = reported
    assert headline(work_dir) == (
        "On 1 of 2 rows, 'pretrained' is above random initialisation. The largest gain "
        "is on VOC detection (+9.2). BELOW random initialisation: Cityscapes "
        "<segmentation> (-3.1)."
    )
    assert "2 transfers, 3 initialisations, 2 seeds" in page.text
    assert headline(work_dir) in page.text


@pytest.mark.parametrize(
    ("random", "pretrained", "end"),
    [
        ([40, 42], [41, 43], "Within the spread of the seeds: {}."),
        ([40], [40], "Level with it: {}."),
        ([40], [41], "The largest gain is on {} (+1.0)."),
    ],
)
def test_how_a_headline_ends(tmp_path, random, pretrained, end):
    sources = {"random": random, "pretrained": pretrained}
    scores = {name: [(value,) for value in found] for name, found in sources.items()}
    found = headline(make_chain(tmp_path, {"city": scores}))
    assert found.endswith(end.format("Cityscapes <segmentation>"))


def table_rows(text):
    body = text[text.index("<h2>Results") : text.index("<h2>Plots")]
    return {
        re.search(r'row">(.*?)</th>', row)[1]: [
            re.sub(r"<(?!/?b>)[^>]*>|\n", "", cell)
            for cell in re.findall(r"<td.*?>(.*?)</td>", row, flags=re.DOTALL)
        ]
        for row in re.findall(r"<tr[^>]*>(<th scope=.row.*?)</tr>", body, re.DOTALL)
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
            *("<b>44.2 ± 0.3</b>", "41.1 ± 0.1 -3.1", "none"),
        ],
    }


def test_predictions_stand_beside_the_ground_truth(reported):
    _, page, _ = reported
    found = []
    for image in page.all("img"):
        if image["src"].startswith("data:image/jpeg"):
            data = base64.b64decode(image["src"].split(",")[1])
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == (320, 160)
                color = picture.convert("RGB").getpixel((160, 80))
            found.append((image["alt"], tuple(round(c / 255) for c in color)))
    assert found == [
        (f"{what} of scene{i}.jpg", color)
        for i in range(2)
        for what, color in (
            ("ground truth", (1, 1, 1)),
            ("random", (1, 0, 0)),
            ("pretrained", (0, 0, 1)),
        )
    ]


@pytest.mark.parametrize("seeds", [[()], []])
def test_a_chain_that_has_only_begun(tmp_path, seeds, capsys):
    scores = {"city": {"random": seeds, "pretrained": seeds}}
    work_dir = make_chain(tmp_path / "chain", scores)
    assert main([str(work_dir)]) == 0
    total = 1 + 2 * len(seeds)
    assert f"1 of {total} stages have finished" in capsys.readouterr().out
    text = (work_dir / "chain.html").read_text()
    assert "No transfer has finished yet." in text
    assert ("Not finished: city-random-seed0, city-pretr" in text) == bool(seeds)
    assert main([str(tmp_path)]) == 2
    assert "holds no chain.json" in capsys.readouterr().err


def test_what_is_missing_is_said(tmp_path):
    scores = {"city": {"random": [(1.0,)], "given": [(2.0,)]}}
    work_dir = make_chain(tmp_path / "a", scores, pretrained=False)
    path = work_dir / "city-given-seed0" / "result.json"
    found = json.loads(path.read_text())
    kept = {k: found[k] for k in ("metrics", "headline", "seconds")}
    path.write_text(json.dumps(kept))
    sections = read(work_dir)[0].sections
    assert "it starts from given checkpoints, 'given'." in sections["pretraining"]
    assert "No transfer has drawn predictions" in sections["predictions"]
    assert "The folder configs/ of this chain holds none." in sections["configs"]
    assert "unknown (city-given-seed0)" in sections["stages"]
    # A pretraining that left nothing but its result:
    sections = read(make_chain(tmp_path / "b", scores))[0].sections
    assert "No loss is in the logs" in sections["curves-knn"]
    assert "No health measures are in the logs" in sections["health"]
    assert "No pictures of what was learned were drawn." in sections["pictures"]
    assert "The run left no run.json" in sections["environment"]
    # Without random initialisation:
    page, _ = read(make_chain(tmp_path / "c", {"city": {"given": [(41.0,)]}}, False))
    assert "41.0" in page.sections["transfer"]
    assert "no pair of pretrained and random" in page.text


def test_many_stages_and_a_metric_that_is_undefined(tmp_path):
    scores = [(1.0,)] * 11 + [()]
    work_dir = make_chain(tmp_path, {"city": {"random": scores}})
    undefined = result({"mIoU": 0.0}) | {"metrics": {"mIoU": None}}
    undefined["curve"] = {"iterations": [], "epochs": [], "values": []}
    write_stage(work_dir, "city-random-seed11", undefined)
    text = read(work_dir)[1]
    row = {"Cityscapes &lt;segmentation&gt;, mIoU": ["<b>1.0 ± 0.0</b>"]}
    assert table_rows(text) == row
    assert "<details><summary>13 stages</summary>" in text  # the hashes are folded


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FRAME = """<!doctype html><iframe src="page.html" style="width: WIDTHpx; height: 800px;
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
  const figures = inside.querySelectorAll("svg"), root = inside.documentElement;
  document.title = [root.clientWidth, root.scrollWidth, Math.min(...sizes),
    sizes.length, figures.length, inside.title == "run"];
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to lay out the page")
@pytest.mark.parametrize("width", [400, 1280])
def test_widths_and_policy_in_a_browser(reported, tmp_path, width):
    _, page, text = reported
    # What is folded is seen too; a script that got into the page does not run.
    text = text.replace("<details><summary>", "<details open><summary>")
    text = text.replace("</main>", "<script>document.title = 'run'</script></main>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", "--allow-file-access-from-files"]
    command += ["--disable-background-networking", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900"]
    command += [(tmp_path / "frame.html").as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    *answer, ran = re.search("<title>(.*?)</title>", found.stdout)[1].split(",")
    inner, whole, smallest, letters, figures = map(float, answer)
    assert ran == "false"
    assert inner == whole == width
    assert smallest >= 11.95
    assert letters > 300
    assert figures == page.tags.count("svg")
