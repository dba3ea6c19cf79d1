"""What ranks are forked with; see :mod:`tests.distributed`."""

# ruff: noqa: F401
import gc

import mmssl_ext.models
import mmssl_ext.run.launch
import tests.harness
from tests import faster

faster.warm_up()
gc.collect()
gc.freeze()  # or the first collection of every fork would copy all pages
