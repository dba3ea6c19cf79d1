"""What is known of a file system: do machines that share it see each other's locks?"""

from __future__ import annotations

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# Of one machine at a time, ...
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"}
# ... or shared, with locks that all machines see, unless an option says otherwise.
_SHARED = {"nfs", "nfs4", "ceph", "gpfs", "lustre"}
_OWN_LOCKS = {"nolock", "local_lock=flock", "local_lock=all", "noflock", "localflock"}


def locks_reach_all(path: Path) -> bool:
    """Whether a lock (flock) on a file is seen by all machines that see the file.

    False where it is not known: other file systems may keep locks to the machine.
    """
    try:
        device = os.stat(path).st_dev
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, source = line.partition(" - ")
        fields = mount.split()
        if len(fields) < 6 or fields[2] != number:
            continue
        kind, *rest = source.split()
        if kind in _LOCAL:
            return True
        options = {x for text in (fields[5], *rest[1:]) for x in text.split(",")}
        return kind in _SHARED and not options & _OWN_LOCKS
    return False
