import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.legend import Legend
from PIL import Image

from mmssl_ext.engine.checkpoint.manifest import write_manifest
from mmssl_ext.visualization import curves, logs, panels, report
from mmssl_ext.visualization.page import embed_file
from mmssl_ext.visualization.report import main, write_report

from .conftest import HEALTH, QUEUE, knn_row, make_run, train_row, write_session


class Page(HTMLParser):
    """Elements and visible text of a page, with its nesting checked."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.sections, self._open = [], "", {}, []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"
        self.tags = [tag for tag, _ in self.elements]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open and self._open[-1][0] == "style":
            return
        self.text += data
        for tag, name in self._open:
            if tag == "section":
                self.sections[name] = self.sections.get(name, "") + data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def assert_stands_alone(page, text):
    """Nothing is fetched, every reference has its target, all that is seen is told."""
    assert not {"script", "iframe", "object", "base"} & set(page.tags)
    (policy,) = (a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src")
    assert "script" not in policy
    unread = re.sub(r"data:image/(png|jpeg|webp);base64,[\w+/=]+", "data:", text)
    assert not re.search(r"https?:|//\w+\.|@import", unread)
    attributes = [pair for _, found in page.elements for pair in found.items()]
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in attributes:
        assert not name.startswith("on")
        for target in re.findall(r"url\((.*?)\)", value or ""):
            assert target[0] == "#" and target[1:] in ids
        if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            assert value.startswith("data:") or value[1:] in ids, (name, value[:80])
    for svg in page.all("svg"):
        assert svg["role"] == "img" and svg["aria-label"]
    for image in page.all("img"):
        assert image["alt"] and int(image["width"]) and int(image["height"])
    links = [a["href"][1:] for a in page.all("a")]
    assert links == [section["id"] for section in page.all("section")]
    assert all(page.sections[name].strip() for name in links)


def assert_legible_on_a_phone(text):
    """A figure is 354 pixels wide where the page is 400; 12 pixels can be read."""
    sizes = []
    for svg in re.findall("<svg.*?</svg>", text, flags=re.DOTALL):
        width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
        found = re.findall(r"<text[^>]*?font(?:-size)?: [^;]*?([\d.]+)px", svg)
        assert len(found) == svg.count("<text")
        sizes += [float(size) * 354 / width for size in found]
    assert 12 <= min(sizes) <= max(sizes) < 15


def read(work_dir):
    text = write_report(work_dir).read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run with its report: work directory, parsed page, text of the page."""
    before = plt.get_fignums()
    work_dir = make_run(tmp_path_factory.mktemp("run"))
    page, text = read(work_dir)
    assert plt.get_fignums() == before  # no global figure is left
    return work_dir, page, text


def test_page_needs_nothing_but_itself_and_follows_the_theme(reported):
    work_dir, page, text = reported
    assert_stands_alone(page, text)
    assert_legible_on_a_phone(text)
    assert page.tags.count("svg") == 3 + 5  # loss, kNN, learning rate; health
    names = "curves-knn health pictures environment warnings config hashes"
    assert list(page.sections) == names.split()
    svgs = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "prefers-color-scheme: dark" in text
    used = set(re.findall(r"var\(--(\w+)\)", svgs))
    assert used >= {"ink", "faint", "blue", "orange"}
    assert all(text.count(f"--{name}: #") == 2 for name in used)  # light and dark
    for name in ("loss_curve", "knn_curve", "health"):
        with Image.open(work_dir / f"{name}.png") as image:
            assert image.width >= 900
    assert "seudo-label" not in page.text  # not of this method
    assert not (work_dir / "clusters.png").exists()


def test_numbers_are_those_of_the_log_and_escaped(reported):
    _, page, text = reported
    config = b"model = dict(type='<b>CO2</b>')\n"
    for found in (
        "CO2 on ImageFolder 'photos & more'",
        "4 epochs, 1,280 images, 40 s of training",
        "31.4 %→55.6 %",
        "24.2 points above the start (31.4\N{NO-BREAK SPACE}%)",
        *("0.876", "45.7", "0.432", "-3.21"),  # health
        f"ln({QUEUE:,} + 1) = 6.93",
        *("2 unreadable images", "Error in the log: A worker died."),
        "Image <i>.jpg was replaced. (2 times)",
    ):
        assert found in page.text
    assert "not complete" not in page.text
    assert hashlib.sha256(b"weights").hexdigest() in page.sections["hashes"]
    assert hashlib.sha256(config).hexdigest() in page.sections["config"]
    assert config.decode() in page.sections["config"]
    for fact in (
        *("64 img/s (median)", "20.0% of the step time", "64 images on 2 processes"),
        *("NVIDIA Big", "Linux-6", "torch 2.11.0, mmdet 3.5", "Seed7"),
    ):
        assert fact in page.sections["environment"].replace("\n", "")
    assert "<b>" not in text and "<i>" not in text


def test_curves_hold_the_points_of_the_log(work_dir):
    log = logs.read_run(work_dir)
    (axes,) = curves.loss_figure(log, QUEUE).axes
    total, instance, _, chance = axes.get_lines()
    assert list(total.get_xdata()) == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]  # epochs
    assert list(total.get_ydata()) == [6.5] * 4 + [4.5] * 4
    assert list(instance.get_ydata()) == [6] * 4 + [4] * 4
    assert chance.get_ydata()[0] == pytest.approx(6.9324, abs=1e-4)  # ln 1025
    (axes,) = curves.knn_figure(log).axes
    found = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert list(axes.get_lines()[0].get_xdata()) == [0, 1, 4]
    assert found == {
        "backbone: 55.6": [31.37, 40.0, 55.62],
        "embedding: 50.5": [27.9, 35.0, 50.5],
        "start: 31.4": [31.37, 31.37],
    }


def test_clustering_scores_have_a_chart(work_dir):
    names = ("nmi", "ari", "acc")
    scores = {f"clustering/backbone_{n}": 10.0 * i for i, n in enumerate(names, 1)}
    rows = [knn_row(e, 40, 35) | scores | {"step": 5 * e} for e in (0, 1)]
    write_session(work_dir, "20990101_000000", rows)
    log = logs.read_run(work_dir)
    assert log.series("clustering/backbone_acc") == ([0, 5], [30.0, 30.0])
    page = write_report(work_dir).read_text()
    assert "Clusters of held-out images" in page and "10 / 20 / 30" in page


def test_the_online_probe_has_a_line_beside_knn(work_dir):
    rows = [knn_row(e, 40, 35) | {"probe/top1": 50.0 + e} for e in (1, 2)]
    rows.insert(1, train_row(20, 5.0) | {"probe/train_top1": 99.0})
    write_session(work_dir, "20260103_000000", rows)
    (axes,) = curves.knn_figure(logs.read_run(work_dir)).axes
    (line,) = (x for x in axes.get_lines() if x.get_label() == "linear probe: 52.0")
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == [51, 52]
    assert axes.get_title("left") == "Accuracy on held-out images"


@pytest.mark.parametrize("names", [("raw", "raw"), ("nce", "nce"), ("nce", "raw")])
def test_terms_are_drawn_before_their_weight(tmp_path, names):
    rows = [
        {k: v for k, v in train_row(step).items() if k != "loss_consistency"}
        | {f"{name}_dense": 6.0, f"{name}_instance": 8.0}
        | {"loss_dense": 3.0, "loss_region": 5.0, "loss": -0.5}
        for step, name in zip((10, 20), names, strict=True)
    ]
    write_session(tmp_path, "1", rows)
    log = logs.read_run(tmp_path)
    (axes,) = curves.loss_figure(log, QUEUE).axes
    labels = {line.get_label(): line for line in axes.get_lines()}
    assert list(labels)[1:4] == ["raw instance", "raw dense", "region"]
    assert len(labels["raw dense"].get_ydata()) == 2
    assert set(labels["raw instance"].get_ydata()) == {8.0}
    assert axes.get_ylim()[0] < -0.5  # negative losses are shown
    units = [curves.loss_figure(log, k).axes[0].get_ylabel() for k in (QUEUE, None)]
    assert units == ["loss (nats)", "loss"]


def test_missing_parts_leave_a_sentence(tmp_path):
    page, _ = read(tmp_path)
    assert "No training step is in the logs." in page.text
    rows = [train_row(step) for step in (10, 20)]
    rows = [{k: v for k, v in row.items() if k not in HEALTH} for row in rows]
    write_session(tmp_path, "1", rows)
    page, text = read(tmp_path)
    assert_stands_alone(page, text)
    assert page.tags.count("svg") == 2  # loss and learning rate
    for sentence in (
        "No pictures of what was learned were drawn.",
        "kNN accuracy was not measured",
        "There is no kNN curve",
        "No health measures are in the logs",
        "There is no checkpoint file",
        "No configuration was found",
        "The run left no run.json",
    ):
        assert sentence in page.text
    assert not (tmp_path / "knn_curve.png").exists()
    rows = [train_row(10, math.nan), train_row(20) | {"health/std_ratio": 0.012}]
    write_session(tmp_path, "2", rows)
    page, _ = read(tmp_path)
    top = page.text[: page.text.index("Curves and kNN accuracy")]
    assert "The loss was not finite in some log lines." in top
    assert "The embeddings have collapsed: their spread is 0.012" in top


def cluster_row(step, sizes, **others):
    figures = dict(zip(("size_min", "size_median", "size_max"), sizes, strict=True))
    figures |= {"effective_number": 9876.5, "change_rate": 0.8125} | others
    return train_row(step) | {f"train/cluster/{k}": v for k, v in figures.items()}


def test_pseudo_labels_have_their_section(tmp_path):
    first = cluster_row(10, (1, 100, 5000), nmi=0.0, purity=0.125)
    last = cluster_row(20, (20, 1234, 56789), nmi=0.2511, purity=0.334)
    write_session(tmp_path, "1", [first, last])
    page, text = read(tmp_path)
    assert_stands_alone(page, text)
    assert list(page.sections).index("pseudo-labels") == 2  # after health
    section = text[text.index('id="pseudo-labels"') : text.index('id="pictures"')]
    caption = '<figcaption><span class="value">(.*?)</span>(.*?)</figcaption>'
    assert re.findall(caption, section) == [
        ("20 / 1,234 / 56,789", "Cluster sizes"),
        ("9,876", "Effective clusters"),
        ("0.812", "Change rate"),
        ("0.251", "NMI with classes"),
        ("0.334", "Purity"),
    ]
    assert page.tags.count("svg") == 2 + 5 + 5  # loss and rate, health, clusters
    assert_legible_on_a_phone(section)
    assert not re.search(
        r"#[0-9a-f]{6}\b|black",
        "".join(re.findall("<svg.*?</svg>", section, re.DOTALL)),
    )
    with Image.open(tmp_path / "clusters.png") as image:
        assert image.width >= 900
    # Without classes:
    write_session(tmp_path / "other", "1", [cluster_row(10, (20, 100, 500))])
    page, _ = read(tmp_path / "other")
    assert page.tags.count("svg") == 2 + 5 + 3
    assert not any(word in page.text for word in ("NMI", "urity", "True labels"))


def test_cluster_sizes_are_drawn_on_a_log_axis_with_zero(tmp_path):
    rows = [cluster_row(10, (0, 90, 2000)), cluster_row(20, (20, 100, 1500))]
    write_session(tmp_path, "1", rows)
    log = logs.read_run(tmp_path)
    figure = curves.panels_figure(log, panels.CLUSTERS[:1])
    figure.canvas.draw()
    (axes,) = figure.axes
    drawn = [list(line.get_ydata()) for line in axes.get_lines()]
    assert drawn == [[0, 20], [90, 100], [2000, 1500]]
    y = axes.transData.transform([(0, size) for size in (0, 1, 10, 100, 1000)])[:, 1]
    assert y[4] - y[3] == pytest.approx(y[3] - y[2]) == pytest.approx(y[2] - y[1])
    assert y[1] > y[0] == pytest.approx(axes.bbox.y0)
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["0", "1", "10", "100", "1,000"]
    (legend,) = figure.findobj(Legend)
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["min: 20", "median: 100", "max: 1,500"]
    # A flat line does not stick to the top.
    (axes,) = curves.panels_figure(log, panels.CLUSTERS[2:3]).axes
    assert axes.get_ylim() == (0, pytest.approx(1.2 * 0.8125, rel=0.08))


def test_hashes_are_those_of_the_manifests(tmp_path):
    sound, damaged, cut = (tmp_path / f"epoch_{i}.pth" for i in (3, 2, 1))
    for path in (sound, damaged, cut):
        path.write_bytes(b"weights")
        # Not those of the files: nothing tells but that the manifest was read.
        facts = {"epoch": 77, "config_sha256": "c" * 64}
        write_manifest(path, hashlib.sha256(path.name.encode()).hexdigest(), facts)
    manifest = damaged.with_name("epoch_2.pth.json")
    manifest.write_text(manifest.read_text().replace("77", "78"))
    cut.write_bytes(b"weight")
    page, html = read(tmp_path)
    text = page.sections["hashes"]
    assert html.count(">77<") == text.count("c" * 64) == 1
    for content in (b"epoch_3.pth", b"weights", b"weight"):
        assert text.count(hashlib.sha256(content).hexdigest()) == 1
    top = page.text[: page.text.index("Curves and kNN accuracy")]
    assert f"{manifest} is damaged or was edited." in top
    assert f"{cut} does not have the 7 bytes of its manifest." in top
    assert "epoch_3.pth" not in top


def shown(page):
    """Pictures of a page by what they are called; sizes compared with their places."""
    found = {}
    for attributes in page.all("img"):
        head, data = attributes["src"].split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert head == f"data:image/{picture.format.lower()}"
            size = str(picture.width), str(picture.height)
            assert size == (attributes["width"], attributes["height"])
            found[attributes["alt"]] = picture.convert("RGBA")
    return found


@pytest.fixture
def listed(tmp_path):
    """Folder of the pictures, and what lists files in it."""
    folder = tmp_path / "pictures"
    folder.mkdir()

    def write(*files):
        texts = {"kind": "pca", "caption": "So & so."}
        entries = [{"file": x, "title": f"Of <{x}>"} | texts for x in files]
        index = {"checkpoint": None, "epoch": 4, "pictures": entries}
        (folder / "index.json").write_text(json.dumps(index))

    return folder, write


def test_pictures_are_in_the_page(tmp_path, listed):
    folder, write = listed
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    noise = Image.fromarray(noise)
    flat = Image.new("RGB", (640, 480), "red")
    made = {
        "noise.png": noise,
        "flat.png": flat,
        "wide.png": noise.resize((3000, 1000)),
    }
    made |= {"photo.jpg": noise, "old.bmp": noise}
    made["clear.png"] = Image.new("RGBA", (50, 40), (0, 0, 255, 0))
    for name, image in made.items():
        image.save(folder / name, **({"compress_level": 0} if image is flat else {}))
    write(*made)
    page, text = read(tmp_path)
    assert_stands_alone(page, text)
    found = shown(page)
    assert list(found) == [f"Of <{file}>" for file in made]
    sizes = [(160, 90), (640, 480), (1600, 533), (160, 90), (160, 90), (50, 40)]
    assert [picture.size for picture in found.values()] == sizes
    red = np.asarray(found["Of <flat.png>"])[..., :3].astype(int)
    assert abs(red - [255, 0, 0]).max() < 12
    small = noise.resize((8, 5), Image.Resampling.BOX)
    for name in ("noise.png", "photo.jpg", "old.bmp"):
        seen = found[f"Of <{name}>"].convert("RGB").resize((8, 5), Image.Resampling.BOX)
        assert abs(np.asarray(seen, int) - np.asarray(small, int)).max() < 12
    assert found["Of <clear.png>"].getextrema()[3] == (0, 0)
    assert "Drawn after epoch 4." in page.sections["pictures"]
    assert page.sections["pictures"].count("So & so.") == len(made)
    assert len(text) < 1_500_000  # the flat one alone is 900 kB
    # A picture fills the screen without a script, its place keeps the height.
    places = [a for a in page.all("details") if a.get("class") == "zoom"]
    assert places[1]["style"] == "aspect-ratio: 640 / 480"


def test_pictures_that_cannot_be_shown_leave_a_sentence(tmp_path, listed, monkeypatch):
    folder, write = listed
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    for name, width in {"good": 80, "large": 90, "bomb": 200}.items():
        Image.new("RGB", (width, 60), "green").save(folder / f"{name}.png")
    good = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(good[:-40])
    (folder / "folder.png").mkdir()
    (tmp_path / "outside.png").write_bytes(good)
    (folder / "again.png").write_bytes(good)
    reasons = {
        "cut.png": "cannot be read as a picture",
        "large.png": "has too many pixels",
        "bomb.png": "has too many pixels",
        "folder.png": "cannot be read as a picture",
        "none.png": "does not exist",
        "../outside.png": "is not in that folder",
        "again.png": "would make this page too large",
    }
    limit = 2 * len(embed_file(folder, "good.png").data) - 1
    monkeypatch.setattr(report, "_PICTURES_LIMIT", limit)
    write("good.png", *reasons)
    page, text = read(tmp_path)
    assert_stands_alone(page, text)
    assert list(shown(page)) == ["Of <good.png>"]
    for file, reason in reasons.items():
        assert f"pictures/{file} is left out: it {reason}." in page.text


def test_a_damaged_or_empty_index_of_pictures(tmp_path, listed):
    folder, write = listed
    for index in (b"", b"[]", b'{"pictures": 3}', b'{"pictures": [3]}', b"[" * 10**5):
        (folder / "index.json").write_bytes(index)
        page, text = read(tmp_path)
        assert "pictures/index.json is damaged" in page.sections["pictures"]
    assert_stands_alone(page, text)
    write()
    assert "No picture is listed." in read(tmp_path)[0].sections["pictures"]


def test_no_gain_is_not_sold_as_one(tmp_path):
    for session, last, words in (
        ("1", 20.04, "11.4 points BELOW the start (31.4 %). The best was 31.4 % at"),
        ("2", 31.4, "level with the start (31.4 %). Labels served"),
    ):
        rows = [knn_row(0, 31.37, 1.0), train_row(20), knn_row(1, last, 1.0)]
        write_session(tmp_path, session, rows)
        assert words in report.headline(tmp_path)
    write_session(tmp_path, "3", [knn_row(0, 31.37, 1.0)])
    assert report.headline(tmp_path).startswith("Before training, the nearest")


def test_command_line_on_an_interrupted_run(work_dir, capsys):
    facts = next(work_dir.glob("*/run.json"))
    facts.write_text(facts.read_text().replace('"max_epochs": 4', '"max_epochs": 8'))
    assert main([str(work_dir)]) == 0
    path = work_dir / "report.html"
    headline, where = capsys.readouterr().out.strip().splitlines()
    assert "55.6 % of cases" in headline
    assert "above the start (31.4 %)" in headline
    assert where == f"Report: {path}"
    assert "4 of 8 epochs, not complete" in path.read_text()
    assert main([str(work_dir / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
