"""``python -m track2view``."""

from track2view.cli import main

main()
