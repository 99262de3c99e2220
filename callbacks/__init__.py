"""When it is measured: Lightning callbacks and the W&B logger."""

from confreg.callbacks.log_records import LogRecords
from confreg.callbacks.measure_on_clock import MeasureOnClock
from confreg.callbacks.save_on_clock import SaveOnClock
from confreg.callbacks.token_throughput import TokenThroughput
from confreg.callbacks.wandb_logger import ClockWandbLogger

__all__ = ["ClockWandbLogger", "LogRecords", "MeasureOnClock", "SaveOnClock", "TokenThroughput"]
