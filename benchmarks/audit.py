"""Say, check by check, whether attacks on a model can be believed. See --help and docs/audit.md."""

import sys

from art_sensreg.benchmark.audit_cli import main

if __name__ == "__main__":
    sys.exit(main())
