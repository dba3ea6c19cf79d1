"""The bytes of an image file: regular files of a sane size only."""

from __future__ import annotations

import errno
import io
import os
import stat

from PIL import TiffImagePlugin

from mmssl_ext.errors import UserValueError

#: Larger files are refused before they are read. Twice that many bytes has the largest
#: image that DecodeImage takes, uncompressed in 16 bits; a sparse file has any number.
MAX_FILE_BYTES = 1 << 30

_LARGE = 1 << 26  # bytes from which a look at the first ones is worth its while
_HEAD = 32

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BANDS, _BITS = 277, 258  # tags of TIFF
# What the first bytes of a file tell, whatever its name is.
_HEADS = (
    (b"8BPS", "a file of Photoshop"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch it by `git lfs pull`"),
    (b"<!DOCTYPE", "a web page, no download of an image"),
    (b"<html", "a web page, no download of an image"),
    (b"<svg", "a drawing in SVG"),
    (b"\xff\x0a", "in JPEG XL"),
)
_ZERO = "it begins with zero bytes: it was never written, or is damaged"
_BRANDS = {b"avif": "in AVIF", b"avis": "in AVIF", b"hei": "in HEIC", b"hev": "in HEIC"}


class NoImageError(UserValueError):
    """A file holds no image; the message is a part of a sentence, "it is ..."."""


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """Read a file at once; never wait for what no disk holds.

    Returns:
        Its content and status.

    Raises:
        OSError: It cannot be opened or read.
        NoImageError: It is no regular file, larger than ``MAX_FILE_BYTES``, or a large
            file that was never written.
    """
    _check(os.stat(path))  # opening alone can wait (a pipe) or act (a device)
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(file)
        _check(status)
        if status.st_size > _LARGE and not os.pread(file, _HEAD, 0).strip(b"\0"):
            raise NoImageError(_ZERO)
        return read_range(file, 0, status.st_size), status
    finally:
        os.close(file)


def read_range(file: int, offset: int, size: int) -> bytes:
    """Read ``size`` bytes of an open file, fewer where it ends before.

    The file's position stays, so forked workers can share a descriptor.
    """
    parts = []
    while size > 0 and (part := os.pread(file, size, offset)):  # may be fewer
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(size: int) -> str:
    """What is wrong with more than ``MAX_FILE_BYTES``, as a part of a sentence."""
    return f"it has {size:,} bytes, more than the {MAX_FILE_BYTES:,} of an image"


def _check(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind in _KINDS:
        raise NoImageError(f"it is {_KINDS[kind]}, no regular file")
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if status.st_size > MAX_FILE_BYTES:
        raise NoImageError(too_large(status.st_size))


def what_it_is(data: bytes) -> str:
    """What bytes are that no decoder knows, as a part of a sentence; empty if unknown.

    Args:
        data: The whole file, or at least its head.
    """
    head = bytes(data[:_HEAD])
    if not head:
        return "it is empty"
    if not head.strip(b"\0"):
        return _ZERO
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(bytes(data))
    if head[4:8] == b"ftyp":
        brands = (text for brand, text in _BRANDS.items() if head[8:].startswith(brand))
        return f"it is {next(brands, 'a film')}: convert it to JPEG or PNG"
    found = next((name for start, name in _HEADS if head.startswith(start)), "")
    return found and f"it is {found}"


def _tiff(data: bytes) -> str:
    """Name the bands, of which a TIFF file may have any number."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        stream = io.BytesIO(data)
        stream.seek(directory.next)
        directory.load(stream)
        bands, bits = int(directory.get(_BANDS, 1)), directory.get(_BITS, 1)
    except Exception:  # PIL raises almost anything on damaged data
        return ""
    each = bits[0] if isinstance(bits, tuple) else bits
    return (
        f"it is a TIFF file in a layout that cannot be read ({bands} bands of {each} "
        "bits) as RGB: pretrain with bands, such as bands=5, and use that checkpoint, "
        "or write it as 8-bit or 16-bit gray or the three bands to be used as 8-bit RGB"
    )
