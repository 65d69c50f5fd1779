"""The benchmark against torchrun: `python -m tests.bench`, or `make bench`."""
