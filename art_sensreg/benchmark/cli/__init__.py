"""The command lines: arguments, terminal output, and the lists that they print."""

from art_sensreg.benchmark.cli.arguments import OneLineParser, known_names, sizes, whole_number
from art_sensreg.benchmark.cli.console import run_program, say

__all__ = ["OneLineParser", "known_names", "run_program", "say", "sizes", "whole_number"]
