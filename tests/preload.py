"""What ranks are forked with; see :mod:`tests.distributed`."""

import gc

import mmssl_ext.engine.launch
import mmssl_ext.models  # noqa: F401
from tests import faster

faster.warm_up()
gc.collect()
gc.freeze()  # or the first collection of every fork would copy all pages
