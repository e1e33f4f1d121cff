"""`python -m mmssl` is the `mmssl` command."""

from mmssl.cli import main

if __name__ == "__main__":
    main()
