"""`python -m mmssl` is the `mmssl` command."""

import sys

from mmssl_cli import main

if __name__ == "__main__":
    sys.argv[0] = "mmssl"  # the program of the command that a run writes down
    main()
