"""``python -m modelmoat``."""

from modelmoat.cli import main

main()
