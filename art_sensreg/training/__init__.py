"""Training: the one loop, its settings and the checks of its inputs. Nothing here knows of ART."""

from art_sensreg.training.config import TrainingConfig

__all__ = ["TrainingConfig"]
