import base64
import io
import re

import pytest
from PIL import Image

from mmssl_ext.visualization.chain_report import headline, main, write_chain_report

from .chain_fixture import DIGEST, make_chain, result, write_pictures, write_stage
from .test_report import Page

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
    work_dir = make_chain(tmp_path_factory.mktemp("chain"), SCORES)
    reason = "RuntimeError: <out of memory>"
    write_stage(work_dir, "voc-other-seed1", None, status="failed", reason=reason)
    write_pictures(work_dir / "voc-random-seed0", "red")
    write_pictures(work_dir / "voc-pretrained-seed0", "blue")
    text = write_chain_report(work_dir).read_text(encoding="utf-8")
    return work_dir, Page(text), text


def test_page_needs_nothing_but_itself(reported):
    _, page, text = reported
    assert "http" not in text
    assert "//" not in re.sub(r"base64,[^\"]*", "", text)
    assert "script" not in page.tags
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(link.startswith("data:") for link in links)
    names = [value for name, value in page.attributes if name == "name"]
    assert "viewport" in names
    assert "prefers-color-scheme: dark" in text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


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
        "VOC detection, AP50": ["41.0 ± 1.4", "51.0 ± 1.4 +10.0", "<b>55.0</b> +14.0"],
        "Cityscapes &lt;segmentation&gt;, mIoU": [
            "<b>44.2 ± 0.3</b>",
            "41.1 ± 0.1 -3.1",
            "none",
        ],
    }


def test_failed_stages_and_provenance(reported):
    work_dir, page, text = reported
    assert "voc-other-seed1 failed: RuntimeError: <out of memory>" in page.text
    assert "voc-other-seed1/chain.log" in page.text
    assert DIGEST[:8] in page.text and DIGEST not in text
    assert "mmdet 3.5.1" in page.text
    assert "1 min 23 s" in page.text
    assert "2.0 GiB" in page.text
    assert "knn/backbone_top1 61.25" in page.text
    plots = {path.name for path in (work_dir / "plots").iterdir()}
    assert plots == {"comparison.png", "curve_voc.png", "curve_city.png"}
    assert text.count("<svg") == 3


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


def test_the_report_of_the_pretraining_is_linked(tmp_path):
    work_dir = make_chain(tmp_path, {"city": {"random": [(1.0,)]}})
    (work_dir / "pretrain" / "report.html").write_text("x")
    page = Page(write_chain_report(work_dir).read_text(encoding="utf-8"))
    assert ("href", "pretrain/report.html") in page.attributes


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
