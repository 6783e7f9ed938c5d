"""``python -m maskrcnn`` is the command ``maskrcnn``."""

import sys

from maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
