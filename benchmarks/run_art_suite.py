"""Train each defence, attack each trained model with ART, and print one table. See --help and the README."""

import sys

from art_sensreg.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
