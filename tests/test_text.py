"""Names of any bytes: kept in files that are read back, escaped where people read."""

import io
import json
import logging
import os
import sys

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from mmssl_ext.chain.results import read_json, write_json
from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.weights.files import read_tensors
from mmssl_ext.errors import UserError
from mmssl_ext.files import read_text, write_text
from mmssl_ext.run.tool import run_tool
from mmssl_ext.text import as_line, guard_files, guard_streams, printable, shown
from mmssl_ext.visualization.curves import save_png, to_svg
from mmssl_ext.visualization.pictures.sheet import Sheet, shortened
from mmssl_ext.visualization.report import write_report
from tests.harness import config, log_text, make_runner, write_images

LATIN = os.fsdecode(b"fa\xe7ade")
EVIL = "a\x1b]0;pwned\x07\nError: all is well\u202egnp.jpg"
EVIL_SHOWN = r"a\x1b]0;pwned\x07\nError: all is well\u202egnp.jpg"


def test_what_is_escaped():
    assert shown(LATIN) == r"fa\xe7ade"
    assert shown(EVIL) == EVIL_SHOWN
    assert printable("one\ttwo\nthree\r\x00\x85") == "one\ttwo\nthree\\r\\x00\\x85"
    assert printable("\ud800") == r"\ud800"
    assert as_line(f"{LATIN}\n\x1b") == f"{LATIN}\\n\\x1b"
    for text in ("Žluťoučký kůň, 猫, ± 3 – x², 👍", "C:\\new\\table"):
        assert shown(text) == printable(text) == as_line(text) == text


def test_text_files_keep_the_bytes(tmp_path):
    path = tmp_path / "list.txt"
    write_text(path, f"{LATIN}/é.jpg\n")
    assert path.read_bytes() == b"fa\xe7ade/\xc3\xa9.jpg\n"
    assert read_text(path) == f"{LATIN}/é.jpg\n"


@pytest.mark.fault("R37")
def test_logs_show_names_escaped(tmp_path, capsys):
    file = tmp_path / "run.log"
    logger = MMLogger("names", log_file=str(file))
    guard_files(logger)
    logger.handlers[0].stream = sys.stdout
    logger.warning(f"{EVIL} and {LATIN}")
    logger.info("%s is %d", LATIN, 3)
    logger.handlers[1].stream.write(f"{LATIN} past the records")  # as mmengine does
    logger.handlers[1].close()
    text = file.read_text(encoding="utf-8")
    out = capsys.readouterr().out
    for found in (text, out):
        assert r"a\x1b]0;pwned\x07" in found
        assert r"fa\xe7ade is 3" in found
        assert "pwned\x07" not in found
    assert "past the records" in text


def test_other_loggers_are_left_alone():
    make = logging.getLogRecordFactory()
    record = make("other", logging.INFO, "", 1, "\x1b[1m%s", ("bold",), None)
    assert record.getMessage() == "\x1b[1mbold"


@pytest.mark.fault("R37")
def test_errors_of_tools_are_escaped(capsys, monkeypatch):
    @run_tool
    def tool():
        raise UserError(f"There is no {EVIL}, {LATIN}.\nGive another.")

    assert tool() == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert r"fa\xe7ade." in error
    assert error.endswith("\nGive another.\n")
    assert str(UnreadableImageError(EVIL, "why")).count("\n") == 0


def test_tools_print_in_any_encoding_and_tracebacks_escaped(monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    guard_streams()
    print(f"Picture: {LATIN} ±")
    sys.excepthook(RuntimeError, RuntimeError(EVIL), None)
    out.flush()
    assert out.buffer.getvalue() == b"Picture: fa\\udce7ade \\xb1\n"
    assert b"RuntimeError: a\\x1b]0;pwned\\x07\nError" in err.buffer.getvalue()


def test_pages_and_pictures_show_names_escaped(tmp_path):
    (tmp_path / "1").mkdir()
    facts = json.dumps({"method": EVIL, "dataset": LATIN})
    (tmp_path / "1/run.json").write_text(facts)
    text = write_report(tmp_path).read_text("utf-8")
    assert r"on fa\xe7ade" in text
    assert r"\x1b]0;pwned" in text
    sheet = Sheet(f"{LATIN} $x^", [EVIL])
    sheet.below(sheet.axes[0, 0], "$\\frac{$" + LATIN, EVIL)
    sheet.axes[0, 0].set_title(f"{LATIN} $x^$")
    assert sheet.pixels().shape[2] == 3
    text = "\n".join(t.get_text() for t in sheet.figure.findobj(Text))
    assert EVIL_SHOWN in text.replace("\n", "") and text.count(r"fa\xe7ade") == 3
    assert shortened(LATIN) == r"fa\xe7ade"


def test_figures_take_any_title(tmp_path):
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], label=f"{LATIN} $\\frac{{$")
    axes.annotate("\x1b $x^$", (0, 0))
    axes.legend()
    axes.set_title(f"{LATIN} $x^$", loc="left")
    save_png(figure, tmp_path / "figure.png")
    assert axes.get_title("left") == r"fa\xe7ade $x^$"
    assert axes.texts[0].get_text() == r"\x1b $x^$"
    assert r"fa\xe7ade" in to_svg(figure, "figure", "a figure")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_are_read_from_such_folders(tmp_path, suffix):
    folder = os.path.join(tmp_path, LATIN)
    os.mkdir(folder)
    path = os.path.join(folder, f"weights{suffix}")
    state = {"backbone.conv1.weight": torch.arange(3.0)}
    if suffix == ".pth":
        with open(path, "wb") as file:
            torch.save({"state_dict": state}, file)
        assert load_checkpoint_file(path)["state_dict"].keys() == state.keys()
    else:
        save_file(state, path)
    found = read_tensors(path)
    assert torch.equal(found["backbone.conv1.weight"], torch.arange(3.0))


def photos(root, name, count=12):
    """Images of a name, the last of which cannot be read."""
    write_images(root, classes=1, per_class=count)
    for i in range(count):
        os.rename(root / f"class0/{i}.png", root / f"class0/{name}{i}.png")
    broken = root / f"class0/{name}{count - 1}.png"
    broken.write_bytes(b"no image")
    return os.path.join(root, f"class0/{name}{count - 1}.png")


@pytest.mark.fault("R37")
@pytest.mark.parametrize("name", [LATIN, "a\x1b[2J\nb"])
def test_unreadable_images_of_such_names_are_listed_once(tmp_path, name):
    root = tmp_path / LATIN
    broken = photos(root, name)
    work_dir = tmp_path / f"out{LATIN}"
    hook = {"type": "UnreadableImagesHook"}
    for epochs, resume in ((1, False), (2, True)):
        cfg = config(root, work_dir, epochs=epochs, unreadable=hook)
        cfg.train_dataloader.dataset.on_error = "skip"
        runner = make_runner(cfg, resume=resume)
        runner.train()
    assert runner.epoch == 2
    listed = (work_dir / "unreadable_images.txt").read_bytes()
    assert listed == os.fsencode(as_line(broken)) + b"\n"
    assert "\x1b" not in log_text(runner)
    assert (work_dir / "last_checkpoint").read_bytes() == os.fsencode(
        work_dir / "epoch_2.pth"
    )


def test_the_batch_of_an_unreadable_image_is_listed(tmp_path):
    root = tmp_path / "images"
    broken = photos(root, LATIN)
    cfg = config(root, tmp_path / "run", preemption={"type": "PreemptionHook"})
    cfg.train_dataloader.num_workers = 1
    with pytest.raises(UserError, match=r"fa\\xe7ade11.png' cannot be read"):
        make_runner(cfg).train()
    listed = (tmp_path / "run/failed_batch.txt").read_bytes().split(b"\n")
    assert len(listed) == 5
    assert os.fsencode(broken) in listed


def test_records_of_a_chain_keep_names(tmp_path):
    write_json(tmp_path / "stage.json", {"output": LATIN})
    assert read_json(tmp_path / "stage.json") == {"output": LATIN}
    (tmp_path / "stage.json").write_text(r'{"output": "\ud800"}')
    assert read_json(tmp_path / "stage.json") == {}
