"""Learning rate schedules: which are accepted, and whether they step after every step or every epoch."""

from art_sensreg.training.schedules.stepping import Schedule, check_scheduler

__all__ = ["Schedule", "check_scheduler"]
