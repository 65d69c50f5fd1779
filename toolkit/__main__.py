"""`python -m toolkit` is `rally`."""

from toolkit.fronts.cli import entry

if __name__ == "__main__":
    entry()
