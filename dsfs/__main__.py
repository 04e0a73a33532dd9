"""`python -m dsfs` is the command `dsfs`."""

import sys

from dsfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
