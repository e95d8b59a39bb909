"""`python -m ppvae`: the command line."""

import sys

from ppvae.command_line import main

if __name__ == "__main__":
    sys.exit(main())
