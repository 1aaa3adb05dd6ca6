"""Experiments of hours, made in pieces by `benchmarks/experiment.py`: a folder that grows and can be committed."""

from art_sensreg.benchmark.studies.experiments.declaration import Experiment, Row
from art_sensreg.benchmark.studies.experiments.named import EXPERIMENTS
from art_sensreg.benchmark.studies.experiments.run import Choice, run_experiment

__all__ = ["EXPERIMENTS", "Choice", "Experiment", "Row", "run_experiment"]
