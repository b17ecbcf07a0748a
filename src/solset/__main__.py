"""``python -m solset``."""

from solset.cli import main

main()
