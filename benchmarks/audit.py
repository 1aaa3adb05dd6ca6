"""Report, check by check, whether attacks on a model can be trusted. See --help and docs/audit.md."""

import sys

if __name__ == "__main__":
    try:  # Ctrl-C while torch is imported too
        from art_sensreg.benchmark.cli.audit import main
        from art_sensreg.benchmark.cli.console import run_program
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_program(main))
