"""The command line: `netra-trio`, or `python -m netra_trio`."""

from netra_trio.cli.main import main

if __name__ == "__main__":
    main()
