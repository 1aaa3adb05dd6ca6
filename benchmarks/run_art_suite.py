"""Train each defence, attack each trained model with ART, and print one table. See --help and the README."""

import sys

if __name__ == "__main__":
    try:  # Ctrl-C while torch is imported too
        from art_sensreg.benchmark.cli.console import run_program
        from art_sensreg.benchmark.cli.suite import main
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_program(main))
