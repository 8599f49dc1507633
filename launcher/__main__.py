"""`python -m launcher`: the same as the `vidjobs` command."""

from launcher.cli import main

main()
