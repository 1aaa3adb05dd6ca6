"""Where the record of a run goes: to TensorBoard, MLflow or Weights & Biases while it trains, to pandas afterwards."""

from art_sensreg.training.tracking.callbacks import MLflowCallback, TensorBoardCallback, WandbCallback
from art_sensreg.training.tracking.frame import history_frame

__all__ = ["MLflowCallback", "TensorBoardCallback", "WandbCallback", "history_frame"]
