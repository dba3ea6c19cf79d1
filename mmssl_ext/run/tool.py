"""The frame of every tool: errors become sentences and exit codes.

Nothing here imports torch: a tool reads its arguments and its config first.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mmssl_ext import interrupt
from mmssl_ext.engine.config.read import read
from mmssl_ext.errors import Preempted, RankError, UserError
from mmssl_ext.room import flush_output, no_room, told
from mmssl_ext.text import guard_streams, printable

#: Options of :func:`add_trackers`, and their help.
TRACKERS = {
    "tensorboard": "also write TensorBoard files",
    "wandb": "also log to Weights & Biases",
    "mlflow": "also log to MLflow, without MLFLOW_TRACKING_URI to mlruns in its folder",
}
_PATIENCE = 10.0  # seconds that torch has to close its connections


def run_tool(main: Callable[[], Any]) -> Callable[[], int]:
    """Turn a tool's function into one that returns the exit code.

    Errors that the user can fix are printed without traceback by rank 0 and end with
    the exit code of their class (see ``errors.py``); all others keep their traceback.
    Where torchrun started the tool, its summary shows the error too. Ctrl-C and a
    closed terminal end with a sentence and 128 + the signal's number, at a second time
    at once; a training run saves first and ends with 75.
    """

    @functools.wraps(main)
    def run() -> int:
        with interrupt.raised():
            return guarded()

    def guarded() -> int:
        code = 1
        guard_streams()
        try:
            with _interrupted_alone():
                main()
            code = 0
        except KeyboardInterrupt as caught:
            code = interrupt.explain(caught)
        except (UserError, FileNotFoundError, NotADirectoryError) as error:
            speaks = _rank() == 0 or isinstance(error, RankError)
            if speaks and not getattr(error, "logged", False):
                kind = "" if isinstance(error, Preempted) else "Error: "
                interrupt.say(printable(f"{kind}{error}"))
            _tell_torchrun(error, str(error))
            code = getattr(error, "exit_code", UserError.exit_code)
        except Exception as error:
            cause = no_room(error)
            text = told(cause) if cause else traceback.format_exc()
            _tell_torchrun(error, text)
            if cause is None:
                raise
            interrupt.say(f"Error: {text}")
            code = UserError.exit_code
        finally:
            _disconnect(code)
        if (failed := flush_output()) is not None and code == 0:
            interrupt.say(f"Error: the output could not be written: {failed}.")
            code = UserError.exit_code
        return code

    return run


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """Add the options that also send the figures of a run elsewhere."""
    for name, text in TRACKERS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)


def add_config(parser: argparse.ArgumentParser, about: str) -> None:
    """Give a tool its config file and the options that change it."""
    parser.add_argument("config", help=about)
    parser.add_argument(
        "--strict-config",
        action="store_true",
        help="take the config for data: refuse what could run code",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings, e.g. train_cfg.max_epochs=20 default_hooks.knn=None",
    )


def take_config(args: dict[str, Any]) -> Config:
    """Read the config that the arguments name, and take what names it out of them.

    Raises:
        ConfigError: It cannot be read, or an option names nothing.
    """
    names = ("config", "cfg_options", "strict_config")
    return read(*(args.pop(name) for name in names))


@contextlib.contextmanager
def _interrupted_alone() -> Iterator[None]:
    """Raise an interruption where a library has made another error of it."""
    try:
        yield
    except Preempted:  # has said all about it
        raise
    except Exception as error:
        if (stopped := interrupt.behind(error)) is not None:
            raise stopped from None
        raise


def _disconnect(code: int) -> None:
    """Close torch's connections; where a rank that is gone prevents it, just leave."""
    dist = sys.modules.get("torch.distributed")  # else there is nothing to close
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return

    def close() -> None:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(_PATIENCE)
    if closing.is_alive():
        if (error := sys.exc_info()[1]) is not None:
            text = printable("".join(traceback.format_exception(error)))
            print(text, end="", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell_torchrun(error: Exception, text: str) -> None:
    """Write the file that torchrun reads for its summary."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        message = {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")


def _rank() -> int:
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
