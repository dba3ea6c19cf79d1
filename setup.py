"""Carry configs and tools inside the package, as ``mmssl_ext/.mim``.

There mim and mmengine look for them. A wheel gets copies, an editable installation
links. All else stands in setup.cfg.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "mmssl_ext"
CARRIED = {"configs": (".py", ".yml", ".md"), "tools": (".py", ".sh")}
INDEX = "model-index.yml"


def carried() -> list[Path]:
    """Files to carry, relative to this folder."""
    found = [
        path
        for folder, suffixes in CARRIED.items()
        for path in Path(folder).rglob("*")
        if path.suffix in suffixes and path.is_file()
    ]
    return [Path(INDEX), *sorted(found)]


class BuildWithMim(build_py):
    """Build the modules, and beside them ``.mim``."""

    def run(self) -> None:
        """Copy for a wheel, link for an editable installation."""
        if self.editable_mode:
            self.link()
            super().run()
            return
        # What an earlier build left there would become part of the wheel.
        shutil.rmtree(Path(self.build_lib, PACKAGE), ignore_errors=True)
        super().run()
        for source, target in self.copies().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target)
            with open(source, "rb") as file:  # an unpacked archive may have lost it
                if file.read(2) == b"#!":
                    os.chmod(target, 0o755)

    def copies(self) -> dict[str, str]:
        """Source and target of each carried file."""
        folder = Path(self.build_lib, PACKAGE, ".mim")
        return {str(path): str(folder / path) for path in carried()}

    def link(self) -> None:
        """Link to the folders of the clone, which stay the only ones."""
        folder = Path(PACKAGE, ".mim")
        folder.mkdir(exist_ok=True)
        for name in (*CARRIED, INDEX):
            link = folder / name
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files of the build."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *self.copies().values()]


setup(cmdclass={"build_py": BuildWithMim})
