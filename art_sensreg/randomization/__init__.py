"""Randomised networks, `randomize(model, kind=...)`; torch only."""

from art_sensreg.randomization.bayesian import BayesianKL
from art_sensreg.randomization.layers import GaussianWeights
from art_sensreg.randomization.randomize import draws_differ, is_randomized, randomize

__all__ = ["BayesianKL", "GaussianWeights", "draws_differ", "is_randomized", "randomize"]
