"""Pickles as data: built-in types and arrays of numbers, never a call of the file's.

``pickle.load`` calls whatever a file names. :func:`load_plain` builds the handful of
things that data sets are made of by functions of its own, and refuses every other name.
Importing this module makes mmengine read ``.pkl`` and YAML annotation files so too.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from typing import Any, BinaryIO, TextIO

import numpy as np
import yaml  # type: ignore[import-untyped]
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from mmssl_ext.errors import UserValueError

_NUMBERS = re.compile(r"\|?[?bB]|[<>=|]?([iu][1248]|f[248]|c(8|16)|b1|[bBhHiIlLqQefd])")


def load_plain(data: bytes, encoding: str = "ASCII") -> Any:
    """Unpickle built-in types and arrays and numbers of NumPy.

    Args:
        data: The pickle.
        encoding: Of Python 2's strings, as for ``pickle.loads``.

    Raises:
        pickle.UnpicklingError: It holds anything else, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damage can look like anything to pickle
        reason = f"{type(error).__name__}: {error}".rstrip(". ")
        raise pickle.UnpicklingError(f"it is damaged ({reason})") from error


class _Tool:
    """Stands for a name; has no attribute that a pickle could set."""

    __slots__ = ()


class _NewArray(_Tool):
    """numpy.core.multiarray._reconstruct; the content follows by __setstate__."""

    __slots__ = ()

    def __call__(self, *ignored: Any) -> _Array:
        return _Array((0,), np.uint8)


class _Array(np.ndarray):
    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        made = _array(content, dtype, shape, "F" if is_fortran else "C")
        content = made.tobytes("A")
        super().__setstate__(
            (1, made.shape, made.dtype, bool(is_fortran), content)  # type: ignore[arg-type]
        )


class _DType(_Tool):
    """numpy.dtype, which pickles as its name and, by __setstate__, its byte order."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = np.dtype(np.uint8)

    def __call__(self, name: str, *ignored: Any) -> _DType:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}")
        made = _DType()
        made.value = np.dtype(name)
        return made

    def __setstate__(self, state: Any) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Scalar(_Tool):
    """numpy.core.multiarray.scalar."""

    __slots__ = ()

    def __call__(self, dtype: Any, content: Any) -> Any:
        return _array(content, dtype, (1,), "C")[0]


class _FromBuffer(_Tool):
    """numpy.core.numeric._frombuffer, of protocol 5."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> Any:
        return _array(content, dtype, shape, order)


class _Encode(_Tool):
    """_codecs.encode, by which protocol 2 writes bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
        return text.encode("latin1")


class _NewOrderedDict(_Tool):
    __slots__ = ()

    def __call__(self, *items: Any) -> OrderedDict:
        return OrderedDict(*items)


class _NoBytes(_Tool):
    """bytes(), as protocol 2 writes an empty one."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(content, str):  # of Python 2
        content = content.encode("latin1")
    shape = tuple(int(length) for length in shape)
    size = math.prod(shape) * dtype.value.itemsize
    if min(shape, default=0) < 0 or size != len(content):
        raise pickle.UnpicklingError(
            f"it holds an array of shape {shape} in {len(content)} bytes"
        )
    return np.frombuffer(content, dtype.value).reshape(shape, order=order).copy(order)


_NAMES = {
    ("numpy", "ndarray"): _Tool,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _NoBytes,
    ("collections", "OrderedDict"): _NewOrderedDict,
    **{
        (f"numpy.{core}.{module}", name): tool
        for core in ("core", "_core")  # of NumPy 1 and 2
        for module, name, tool in (
            ("multiarray", "_reconstruct", _NewArray),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
}


# Python's own unpickler, not the faster one in C: that fills gigabytes of memory where
# a file of ten bytes numbers its objects from 2^31.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run")
        return _NAMES[module, name]()


@register_handler(["pkl", "pickle"])
class PlainPickleHandler(PickleHandler):
    """Reads annotation files for mmengine, as :func:`load_plain` does."""

    def load_from_fileobj(self, file: BinaryIO, **kwargs: Any) -> Any:
        """Return the content.

        Raises:
            ValueError: It is more than data.
        """
        try:
            return load_plain(file.read(), kwargs.get("encoding", "ASCII"))
        except pickle.UnpicklingError as error:
            raise UserValueError(
                f"A pickle file cannot be loaded as data: {error}. Whoever wrote it "
                "could run code here, so it was refused. If you trust its origin, "
                "write its content as JSON."
            ) from error


@register_handler(["yaml", "yml"])
class PlainYamlHandler(YamlHandler):
    """Reads YAML for mmengine, whose loader builds any object that a tag names."""

    def load_from_fileobj(self, file: TextIO, **kwargs: Any) -> Any:
        """Return the content."""
        return yaml.load(file, Loader=yaml.SafeLoader)
