"""python -m avbench.cli, as python -m avbench."""

from avbench.cli import main

main()
