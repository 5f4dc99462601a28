"""The adapter of functions in Python: ``python3 <this folder> --entry main.py``."""

from cakework_runtime.program import main

if __name__ == "__main__":
    main()
