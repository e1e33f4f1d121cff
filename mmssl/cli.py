"""The `mmssl` command, which lives outside the package: see `mmssl_cli`."""

from mmssl_cli import main as main
