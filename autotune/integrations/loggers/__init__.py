"""Searches told to experiment trackers: callbacks for `autotune.search`, one for each tracker.

    from autotune.integrations.loggers import MLflowLogger

    result = autotune.search(space, evaluate, "minimize latency_ms", callback=MLflowLogger())

Each logs every finished trial of the study once, whoever measured it, and goes on in the same run when the study is gone on
with. ``MLflowLogger().log(study)`` does the same with a study that exists. A tracker is imported only where its logger is made.
"""

from autotune.integrations.loggers.base import LoggerWarning, StudyLogger
from autotune.integrations.loggers.mlflow_runs import MLflowLogger
from autotune.integrations.loggers.tensorboard_events import TensorBoardLogger
from autotune.integrations.loggers.wandb_run import WandbLogger

__all__ = ["LoggerWarning", "MLflowLogger", "StudyLogger", "TensorBoardLogger", "WandbLogger"]
