"""Runs the command line as ``python -m cakework.cli``."""

from cakework.cli.main import main

if __name__ == "__main__":
    main()
