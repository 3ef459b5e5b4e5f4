"""`python -m stitchrl` is the command `stitchrl`."""

from stitchrl.cli import main

if __name__ == "__main__":
    main()
