"""Writing in one step."""

from pathlib import Path

import pytest

from mmssl_ext.files import write_bytes, write_text


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file, write = tmp_path / "a.png", Path.write_bytes

    def fail(path, data):
        write(path, data[:2])
        raise OSError("No space left on device")

    write_text(file, "old")
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_bytes(file, b"new and longer")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
