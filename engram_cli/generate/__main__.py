"""`python -m engram_cli.generate`."""

import sys

from . import main

sys.exit(main(sys.argv[1:]))
