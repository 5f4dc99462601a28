"""The command line: ``cakework up``, ``build``, ``run``, ``logs`` and their like."""
