"""Of this folder pytest runs the Markdown pages; scripts and the notebook have tests and targets of their own."""

collect_ignore_glob = ["*.py", "*/*.py"]
