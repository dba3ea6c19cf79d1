"""``python -m mmssl_ext`` is the command ``mmssl-ext``, for torchrun for instance."""

import sys

from mmssl_ext.run.cli import main

sys.exit(main())
