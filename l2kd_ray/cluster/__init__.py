"""Ray: sweeps by Tune, the stage pool, and stages run as Ray tasks or by Ray Train.

Ray reads most of its settings when it is imported, and its child processes inherit the environment.
So the settings are put into the environment here, before any module of this package imports Ray. A
variable that the user has set is left alone.
"""

import os

COLLECTIVE_TIMEOUT_S = 300  # ranks that disagree by a step would hang for ever without one
"""Seconds before a collective operation of a worker group fails instead of waiting."""

ENVIRONMENT = {
    # Worker groups start and end seconds earlier with these; nobody reads Train's own metrics.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(COLLECTIVE_TIMEOUT_S),
    # Tune's own files and tables are not kept: the store is the truth.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray's coming default, set to silence its warning: a task without a GPU keeps
    # CUDA_VISIBLE_DEVICES.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default Ray repeats a task without limit that it killed because memory was short.
    "RAY_task_oom_retries": "3",
    # A head that is started here shares a machine that may be busy for minutes.
    "RAY_health_check_failure_threshold": "20",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
