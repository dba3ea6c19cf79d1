"""A warm interpreter for commands: forked, not started, so that torch is there.

Importing torch and the OpenMMLab toolboxes takes a command 5 to 6 s of processor. A
server that has imported them once (:mod:`.server`) forks for every command instead:

    from tests.warm import python

    done = python("tools/train.py", "small.py", cwd=folder)
    assert done.returncode == 0, done.stderr

The fork runs the file as the main program in its folder and with its environment, and
ends as an interpreter ends. What a warm process cannot show stays a real one: what a
module imports, what the wheel holds, and what torch does when it is imported.
"""

from .commands import Command, python

__all__ = ["Command", "python"]
