"""Time training steps against plain PyTorch loops. See --help; `art-sensreg step-cost` is the same."""

import sys

if __name__ == "__main__":
    try:  # Ctrl-C while torch is imported too
        from art_sensreg.benchmark.cli.console import run_program
        from art_sensreg.benchmark.cli.step_cost import main
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run_program(main))
