"""The configs and tools that belong to the package, wherever it is installed.

A wheel carries ``configs``, ``tools`` and ``model-index.yml`` in ``mmssl_ext/.mim``, as
the OpenMMLab packages do; in a clone they stand beside the package. A config of the
package has the name ``mmssl_ext::co2/co2_r50_imagenet.py``, on the command line and in
``_base_``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mmssl_ext import compat

PACKAGE = Path(__file__).resolve().parent
SCOPE = "mmssl_ext::"


def root() -> Path:
    """Folder of ``configs``, ``tools`` and ``model-index.yml``.

    Raises:
        FileNotFoundError: This installation has none.
    """
    for folder in (PACKAGE / ".mim", PACKAGE.parent):
        # Any package may leave a folder `configs` in site-packages.
        if (folder / "configs" / "_base_" / "default_runtime.py").is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"{PACKAGE} has no configs and tools: {PACKAGE / '.mim'} is missing. Install "
        "mmssl_ext again from a wheel or a whole clone."
    )


def packaged_config(name: str) -> Path | None:
    """A config of the package, None where the name means none.

    Args:
        name: As in ``mmssl_ext::co2/co2_r50_imagenet.py``; the scope, or a leading
            ``configs/`` instead of it, may be left out.
    """
    parts = PurePosixPath(name.removeprefix(SCOPE)).parts
    if parts[:1] == ("configs",):
        parts = parts[1:]
    if not parts or ".." in parts or parts[0] == "/":
        return None
    # Linked files of an editable installation are named by where they really are.
    path = (root() / "configs").resolve().joinpath(*parts)
    return path if path.is_file() else None


def find_config(name: str | Path) -> Path:
    """A config file by its path or, where there is no such file, from the package.

    Raises:
        FileNotFoundError: There is none; the message names what is close.
    """
    text = str(name)
    if not text.startswith(SCOPE) and Path(text).is_file():
        return Path(text)
    if (found := packaged_config(text)) is not None:
        return found
    where = f"looked from {Path.cwd()} and in the package"
    if text.startswith(SCOPE):
        where = f"looked in {root() / 'configs'}"
    raise FileNotFoundError(f"Config {text} does not exist ({where}).{_closest(text)}")


def packaged_base(name: str) -> Path:
    """The file of a base like ``mmssl_ext::co2/co2_r50_imagenet.py``.

    Raises:
        FileNotFoundError: There is none.
    """
    if (found := packaged_config(name)) is None:
        raise FileNotFoundError(f"there is no {name} in {root() / 'configs'}")
    return found


def enable_bases() -> None:
    """Let mmengine find bases like ``_base_ = "mmssl_ext::co2/co2_r50_imagenet.py"``.

    mmengine knows the packages of OpenMMLab alone, and would write ``_scope_`` into
    every dict with a ``type`` of the base. Such a base is read here like a file beside
    the config.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    # For mmengine.hub.get_config, which looks into .mim of what is installed.
    MODULE2PACKAGE.setdefault("mmssl_ext", "mmssl_ext")

    def with_ours(upstream: Callable) -> Callable:
        def find(cfg_path: str, filename: str) -> tuple[str, str | None]:
            if cfg_path.startswith(SCOPE):
                return str(packaged_base(cfg_path)), None
            return upstream(cfg_path, filename)

        return find

    compat.replace_config_step("base_path", with_ours)


def _closest(text: str) -> str:
    """``Did you mean ...?`` with a space before it, or nothing."""
    path = Path(text.removeprefix(SCOPE))
    near: dict[str, str] = {}  # what a user may have meant, and how it is called
    if not text.startswith(SCOPE):
        near = {file.name: file.name for file in path.parent.glob("*.py")}
    found = difflib.get_close_matches(path.name, near)
    if not found and not path.is_absolute():
        folder = root() / "configs"
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.py")]
        near = {name: f"{SCOPE}{name}" for name in names if name[0] != "_"}
        found = difflib.get_close_matches(path.as_posix(), near)
    return f" Did you mean {' or '.join(near[name] for name in found)}?" * bool(found)
