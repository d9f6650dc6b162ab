"""``python -m fxfeat`` is the ``fxfeat`` command."""

import sys

from fxfeat.cli import main

if __name__ == "__main__":
    sys.exit(main())
