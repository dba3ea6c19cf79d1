"""The command of version 0.1: now ``python -m mmssl_ext check-env``."""

import sys

from .run.check_env import main

if __name__ == "__main__":
    sys.exit(main())
