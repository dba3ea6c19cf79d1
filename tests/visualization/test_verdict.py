"""The word on top of a report of a run without labels, by figures of real runs."""

import pytest

from mmssl_ext.visualization import report
from mmssl_ext.visualization.verdict import verdict

from .conftest import train_row, write_session


def run(folder, *measured, **changes):
    """A run whose log lines have these (spread, distance of the views)."""
    rows = []
    for i, (spread, near) in enumerate(measured):
        health = {"health/std_ratio": spread, "health/alignment": near}
        rows.append(train_row(10 * (i + 1)) | health | changes)
    write_session(folder, "20260101_000000", rows)
    return report.logs.read_run(folder)


# The first and the last line of ten epochs on the demo scenes, and by hand.
CASES = {
    "MoCo v2": (((0.236, 1.651), (0.511, 0.160)), "learning"),
    "BYOL": (((0.702, 1.388), (0.704, 0.554)), "learning"),
    "SimSiam": (((0.808, 1.199), (0.669, 0.464)), "learning"),
    "equal images": (((0.5, 0.6), (0.02, 0.0001)), "collapsed"),
    "nothing moved": (((0.8, 0.40), (0.8, 0.39)), "unclear"),
    "views apart": (((0.8, 1.28), (0.8, 1.0)), "unclear"),
    "one line": (((0.8, 0.2),), "unclear"),
}


@pytest.mark.parametrize(("measured", "word"), CASES.values(), ids=CASES)
def test_word(tmp_path, measured, word):
    found = verdict(run(tmp_path, *measured))
    assert found.word == word
    assert str(found).startswith(f"{word.capitalize()}: ") and found.because[-1] == "."


@pytest.mark.parametrize(
    ("used", "entropy", "because"),
    [
        (0.04, 0.5, "4.0% of the prototypes are used: "),
        (0.9, 0.995, "the prototypes have collapsed: all are alike"),
        (0.06, 0.98, None),
    ],
)
def test_prototypes_count_too(tmp_path, used, entropy, because):
    codes = {"health/prototypes_used": used, "health/code_entropy": entropy}
    found = verdict(run(tmp_path, *CASES["BYOL"][0], **codes))
    assert found.word == ("learning" if because is None else "collapsed")
    assert because is None or found.because.startswith(because)


def test_figures_by_hand(tmp_path):
    # Distances of different images: 2 x 0.5^2 = 0.5, then 2 x 0.8^2 = 1.28.
    found = verdict(run(tmp_path, (0.5, 0.6), (0.8, 0.32)))
    assert "0.25 times as far from each other as different images (1.20 " in found[1]


def test_without_a_step_or_a_finite_loss(tmp_path):
    write_session(tmp_path / "empty", "20260101_000000", [])
    assert verdict(report.logs.read_run(tmp_path / "empty")) is None
    lost = verdict(run(tmp_path, (0.8, 0.2), (0.8, 0.1), loss=float("nan")))
    assert lost == ("unclear", "no finite loss is in the logs.")


def test_it_stands_on_the_page_only_where_there_are_no_labels(tmp_path):
    run(tmp_path, *CASES["BYOL"][0])
    page = report.write_report(tmp_path).read_text()
    assert "Learning: two views of one image" in page
    assert report.headline(tmp_path).endswith("which needs labelled images.")


def test_a_point_stands_only_where_something_was_measured(tmp_path):
    """Monitors measure at some lines; the log repeats their figures in the others."""
    repeated = [{"health/std_ratio": s, "health/alignment": a} for s, a in BOTH]
    rows = [
        {"loss": 4.0 - i, "step": i + 1.0, "cluster/nmi": 0.5 + i // 3}
        | repeated[i // 2]
        for i in range(6)
    ]
    write_session(tmp_path, "20260101_000000", rows)
    log = report.logs.read_run(tmp_path)
    assert log.series("health/std_ratio") == ([1, 3, 5], [0.2, 0.2, 0.6])
    assert log.series("health/alignment") == ([1, 3, 5], [0.9, 0.5, 0.5])
    assert log.series("cluster/nmi") == ([1, 4], [0.5, 1.5])
    assert log.series("loss")[1] == [4, 3, 2, 1, 0, -1]


BOTH = ((0.2, 0.9), (0.2, 0.5), (0.6, 0.5))
