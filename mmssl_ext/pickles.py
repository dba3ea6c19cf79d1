"""Pickles as data: built-in types and arrays of numbers, never a call of the file's.

``pickle.load`` calls whatever a file names. :func:`load_plain` allows the handful of
names that data sets are made of, for each of which stands a function of this module.
Importing this module makes mmengine read ``.pkl`` and YAML annotation files so too.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np
import yaml  # type: ignore[import-untyped]
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from mmssl_ext.compat import PythonUnpickler
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
        return _Unpickler(data, encoding).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damage can look like anything to pickle
        reason = f"{type(error).__name__}: {error}".rstrip(". ")
        raise pickle.UnpicklingError(f"it is damaged ({reason})") from error


class _Allowed(NamedTuple):  # a pickle cannot set an attribute of a tuple
    """What stands for a name."""

    call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _DType:
    """Stands for numpy.dtype of a name; its byte order follows by __setstate__."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *ignored: Any) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose content follows by __setstate__."""

    make: Any  # the _array of its unpickler

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        make = self.__dict__.pop("make")  # once
        array = make(content, dtype, shape, "F" if is_fortran else "C")
        whole = (1, array.shape, array.dtype, bool(is_fortran), array.tobytes("A"))
        super().__setstate__(whole)  # type: ignore[arg-type]


class _Unpickler(PythonUnpickler):
    def __init__(self, data: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        # Bytes that may be made of those read: each becomes text, then an array.
        self._room = 2 * len(data)
        self._allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _DType,
            ("_codecs", "encode"): self._encode,  # protocol 2 writes bytes so
            ("__builtin__", "bytes"): lambda: b"",  # and an empty one so
            ("collections", "OrderedDict"): self._dict,
        }
        for core in ("core", "_core"):  # of NumPy 1 and 2
            self._allowed |= {
                (f"numpy.{core}.multiarray", "_reconstruct"): self._new_array,
                (f"numpy.{core}.multiarray", "scalar"): self._scalar,
                (f"numpy.{core}.numeric", "_frombuffer"): self._array,
            }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run")
        return _Allowed(self._allowed[module, name])

    def _spend(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise pickle.UnpicklingError("it would become much larger than it is")

    def _dict(self, items: Any = ()) -> dict:
        self._spend(8 * len(items))
        return dict(items)  # which keeps the order as well, but has no attributes

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
        self._spend(len(text))
        return text.encode("latin1")

    def _new_array(self, *ignored: Any) -> _Array:
        array = _Array((0,), np.uint8)
        array.make = self._array
        return array

    def _scalar(self, dtype: Any, content: Any) -> Any:
        return self._array(content, dtype, (1,), "C")[0]

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if isinstance(content, str):  # of Python 2
            content = content.encode("latin1")
        shape = tuple(int(length) for length in shape)
        size = math.prod(shape) * dtype.value.itemsize
        if min(shape, default=0) < 0 or size != len(content):
            raise pickle.UnpicklingError(
                f"it holds an array of shape {shape} in {len(content)} bytes"
            )
        self._spend(size)
        found = np.frombuffer(content, dtype.value)
        return found.reshape(shape, order=order).copy(order)


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
