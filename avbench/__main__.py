"""`python -m avbench`, and so `torchrun --nproc-per-node=W -m avbench train ...`."""

from avbench.cli import main

if __name__ == "__main__":
    main()
