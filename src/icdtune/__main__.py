"""`python -m icdtune`."""

from icdtune.cli import main

main()
