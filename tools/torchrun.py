#!/usr/bin/env python
"""torchrun, which says in its exit code that a signal stopped all workers in order.

    torchrun.py [options of torchrun] SCRIPT [its options]

Where a signal to torchrun makes all of its workers save and leave by exit code 75, it
ends with 75 too, instead of 1 and a traceback of its own.
"""

import sys
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException, api

SAVED = 75  # of mmssl_ext.errors.Preempted


def main() -> int:
    """Run the command."""
    codes: list[int | None] = []
    close = api.SubprocessContext._close

    def close_and_look(context: Any, *args: Any, **kwargs: Any) -> None:
        close(context, *args, **kwargs)
        handlers = context.subprocess_handlers.values()
        codes[:] = [handler.proc.poll() for handler in handlers]

    api.SubprocessContext._close = close_and_look
    try:
        run.main()
    except SignalException:
        if codes and set(codes) == {SAVED}:
            return SAVED
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
