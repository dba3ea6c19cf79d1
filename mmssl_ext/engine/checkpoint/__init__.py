"""How does a run go on? Read in this order.

1. What a run does: :mod:`.hook` says when a checkpoint is due, :mod:`.best` which is
   the best, :mod:`.saver` in which steps each is saved.
2. Files: :mod:`.write` (whole or not at all), :mod:`.manifest` (JSON beside it, by
   which damage is found), :mod:`.read` (nothing but tensors and :mod:`.plain` data).
3. Folders: :mod:`.run_folder` (which checkpoint is the newest), :mod:`.identity` (whose
   folder it is).
4. Exact resume: :mod:`.exact_resume` is the hook that saves and restores what a run has
   in hand, :mod:`.loops` the loop that goes on between any two steps; :mod:`.facts` is
   what a checkpoint says, :mod:`.resume` and :mod:`.schedule` what is compared with it
   and adapted.
"""

from mmssl_ext.moved import names_of

__getattr__ = names_of(__name__, "engine.checkpoint.read", "engine.checkpoint.plain")
