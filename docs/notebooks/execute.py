"""
Execute the notebook from top to bottom, and store its outputs.

usage: execute.py [--check]

With --check nothing is written. A cell that raises is an error, with the cell and its traceback.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).with_name("defend_attack_audit.ipynb")

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        print(f"execute.py: error: unexpected {' '.join(sys.argv[1:])!r}; expected nothing or --check", file=sys.stderr)
        sys.exit(2)
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False).execute()
    if "--check" not in sys.argv:
        notebook.metadata.language_info = {"name": "python"}  # not the version of this machine
        nbformat.write(notebook, PATH)
