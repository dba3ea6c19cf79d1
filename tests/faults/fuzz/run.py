"""Runs inputs in a process of their own, and judges what came of each.

The process is watched: it dies where a reader does, it is killed where one hangs, and a
new one goes on behind that input.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing as mp
import os
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .mutate import CANARY

SECONDS = 20.0  # for one input; the slowest take about one on an idle machine
MEGABYTES = 2_000  # that one input may need beyond what the process had

Job = tuple[str, int, int]  # reader, seed, number

_LOADED = ["tests.faults.fuzz.readers"]


@dataclass
class Result:
    """What came of one input.

    Attributes:
        reader: Name of the reader.
        number: Of the input.
        outcome: ``read``, ``refused``, or a fault: ``error`` (another exception, or a
            message that names no file), ``crash``, ``hang``, ``memory``, ``code``.
        detail: Message or traceback.
        mutation: What was done to the file.
        megabytes: That the process grew by.
    """

    reader: str
    number: int
    outcome: str
    detail: str = ""
    mutation: str = ""
    megabytes: float = 0.0


@dataclass
class Report:
    """All results: counts, and the faults in full."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[Result] = field(default_factory=list)
    megabytes: float = 0.0

    def add(self, result: Result) -> None:
        """Count a result and keep it if it is a fault."""
        self.counts.setdefault(result.reader, Counter())[result.outcome] += 1
        self.megabytes = max(self.megabytes, result.megabytes)
        if result.outcome not in ("read", "refused"):
            self.faults.append(result)

    def table(self) -> str:
        """A row per reader."""
        lines = [
            f"{'reader':<12} {'inputs':>7} {'read':>7} {'refused':>8} {'faults':>7}"
        ]
        total: Counter[str] = Counter()
        for name, count in [*self.counts.items(), ("all", total)]:
            number, read, refused = count.total(), count["read"], count["refused"]
            lines.append(
                f"{name:<12} {number:>7} {read:>7} {refused:>8} "
                f"{number - read - refused:>7}"
            )
            total.update(count)
        return "\n".join(lines)


def jobs(count: int, seed: int, names: Sequence[str] = ()) -> list[Job]:
    """``count`` inputs, or a few more, shared out among the readers."""
    from .readers import READERS

    chosen = [READERS[name] for name in names or READERS]
    shares = sum(reader.share for reader in chosen)
    return [
        (reader.name, seed, number)
        for reader in chosen
        for number in range(-(-count * reader.share // shares))
    ]


def run(todo: Sequence[Job], processes: int = 1) -> Report:
    """Run inputs and return what came of them, in their order."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    report = Report()
    parts = [list(todo[i::processes]) for i in range(processes)]
    workers = [_Worker(context, part) for part in parts if part]
    found: list[Result] = []
    try:
        while any(not worker.finished for worker in workers):
            for worker in workers:
                found += worker.results()
    finally:
        for worker in workers:
            worker.stop()
    order = {job: i for i, job in enumerate(todo)}
    seed = todo[0][1] if todo else 0
    for result in sorted(found, key=lambda r: order[r.reader, seed, r.number]):
        report.add(result)
    return report


class _Worker:
    """A process with its inputs, started anew where one of them ends it."""

    def __init__(self, context: Any, todo: list[Job]) -> None:
        self.context, self.todo = context, todo
        self.done = 0
        self._start()

    @property
    def finished(self) -> bool:
        return self.done == len(self.todo)

    def _start(self) -> None:
        self.pipe, theirs = self.context.Pipe(duplex=False)
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        args = (theirs, self.todo[self.done :], self.folder.name)
        self.process = self.context.Process(target=_serve, args=args, daemon=True)
        self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + 300  # it reads the valid files first
        self.ready = False

    def results(self) -> Iterator[Result]:
        """What has come in, waiting for a moment."""
        if self.finished:
            return
        try:
            while self.pipe.poll(0.02):
                result = self.pipe.recv()
                self.deadline = time.monotonic() + SECONDS
                if result is None:
                    self.ready = True
                    continue
                self.done += 1
                yield result
                if self.finished:
                    self.stop()
                    return
            if time.monotonic() < self.deadline:
                return
            what, detail = "hang", f"no end after {SECONDS:.0f} s"
        except (EOFError, OSError):
            self.process.join(10)
            what, detail = "crash", f"the process ended with {self.process.exitcode}"
        self.stop()
        if not self.ready:
            raise RuntimeError("The readers cannot read the valid files, see above.")
        name, _, number = self.todo[self.done]
        self.done += 1
        yield Result(name, number, what, detail)
        if not self.finished:
            self._start()

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()
        self.folder.cleanup()


def _serve(pipe: Any, todo: list[Job], folder: str) -> None:
    """Run the inputs one after the other; the first message says that it is ready."""
    import cv2
    import torch
    from PIL import Image

    from .readers import READERS

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    places: dict[str, Path] = {}
    for name in dict.fromkeys(name for name, _, _ in todo):
        places[name] = _prepared(READERS[name], Path(folder, name))
    Image.init()  # all of its plugins
    with contextlib.redirect_stdout(io.StringIO()):
        for name, place in places.items():  # imports what is imported at first use
            for content in READERS[name].seeds():
                (place / READERS[name].file).write_bytes(content)
                READERS[name].read(place)
    in_use = int(Path("/proc/self/statm").read_text().split()[0])
    limit = in_use * resource.getpagesize() + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = _Watch(folder)
    pipe.send(None)
    for name, seed, number in todo:
        pipe.send(_judge(READERS[name], places[name], seed, number, watch))


def _prepared(reader: Any, folder: Path) -> Path:
    folder.mkdir()
    reader.prepare(folder)
    (folder / reader.file).parent.mkdir(parents=True, exist_ok=True)
    return folder


class _Watch:
    """An audit hook that notes what no reader of data has any business with."""

    _EVENTS = re.compile(
        r"exec|compile|os\.(system|exec|fork|forkpty|posix_spawn|spawn|kill|remove|"
        r"rmdir|rename|chmod|putenv)|subprocess\.Popen|pty\.spawn|socket\.\w+|"
        r"urllib\.Request|ctypes\.dlopen|import|object\.__setattr__"
    )

    def __init__(self, folder: str) -> None:
        self.seen: list[str] = []
        self.active = False
        self.folder = folder
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.active or not self._EVENTS.fullmatch(event):
            return
        if event == "import" and (args[0] in sys.modules or _is_harmless(args[0])):
            return
        if event in ("os.remove", "os.rename", "os.rmdir"):
            inside = str(args[0]).startswith((self.folder, tempfile.gettempdir()))
            if inside or args[-1] != -1:  # relative: shutil.rmtree
                return  # of what the reader wrote itself
        if event == "compile" or (event == "exec" and _is_known(args[0])):
            return  # to parse is to compile; only running counts
        self.seen.append(f"{event} {args!r}"[:300])


def _is_harmless(module: str) -> bool:
    return module.split(".")[0] in ("PIL", "encodings", "stringprep", "numpy", "torch")


def _is_known(code: Any) -> bool:
    """Code of modules that are imported, and configs that were checked before."""
    name = getattr(code, "co_filename", "")
    known = name in ("", "<string>") and not code.co_names  # mmengine's _base_, literal
    return known or name.endswith(("config.py", "base.py")) or "/lib/python" in name


def _judge(reader: Any, folder: Path, seed: int, number: int, watch: _Watch) -> Result:
    data, mutation = reader.input(seed, number)
    path = folder / reader.file
    path.write_bytes(data)
    watch.seen.clear()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _resident("VmRSS")
    outcome, detail = "read", ""
    watch.active = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reader.read(folder)
    except reader.errors as error:
        outcome, detail = "refused", str(error)
        if not _is_sentence(detail, [path.name, *reader.named]) or not _is_raised_here(
            error
        ):
            outcome, detail = "error", traceback.format_exc(limit=-6)
    except BaseException:
        outcome, detail = "error", traceback.format_exc(limit=-6)
    finally:
        watch.active = False
    megabytes = _resident("VmHWM") - before
    if megabytes > MEGABYTES:
        outcome, detail = "memory", f"{megabytes:.0f} MB"
    if watch.seen or Path(CANARY).exists() or (folder / CANARY).exists():
        outcome, detail = "code", f"{watch.seen or 'the canary appeared'}\n{detail}"
        Path(CANARY).unlink(missing_ok=True)
        (folder / CANARY).unlink(missing_ok=True)
    # Libraries make strings that pickle cannot carry over.
    detail = detail.encode("utf-8", "backslashreplace").decode("utf-8", "replace")
    return Result(reader.name, number, outcome, detail, mutation, megabytes)


def _is_sentence(message: str, names: list[str]) -> bool:
    """Whether a message says what is wrong with which file."""
    named = any(name in message for name in names)
    return named and len(message.split()) >= 5 and "\nTraceback" not in message


def _is_raised_here(error: BaseException) -> bool:
    """Whether this package raised it, and no library below it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "/mmssl_ext/" in frame.filename


def _resident(what: str) -> float:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"{what}:\s+(\d+) kB", text)
    return int(match[1]) / 1024 if match else 0.0
