"""Randomised networks: `randomize(model, kind=...)`. Pure PyTorch."""

from art_sensreg.randomization.bayesian import BayesianKL
from art_sensreg.randomization.randomize import draws_differ, is_randomized, randomize

__all__ = ["BayesianKL", "draws_differ", "is_randomized", "randomize"]
