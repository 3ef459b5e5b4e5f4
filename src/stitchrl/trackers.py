"""`st.trackers`: where training metrics can be sent. Each tracker's own package is an extra, imported when it is made."""

from stitchrl.training.trackers.base import Tracker
from stitchrl.training.trackers.mlflow import MLflowTracker
from stitchrl.training.trackers.tensorboard import TensorBoardTracker
from stitchrl.training.trackers.trackio import TrackioTracker
from stitchrl.training.trackers.wandb import WandbTracker

__all__ = ["MLflowTracker", "TensorBoardTracker", "Tracker", "TrackioTracker", "WandbTracker"]
