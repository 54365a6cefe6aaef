"""Training: tasks, steps, state, schedules, the log, and what a run can survive."""

from gpstoken_jax.runtime.progress import format_seconds
from gpstoken_jax.training.best import BestCheckpoint
from gpstoken_jax.training.checks import (
    check_evaluation,
    check_free_space,
    evaluation_interval,
    is_due,
)
from gpstoken_jax.training.flops import Work
from gpstoken_jax.training.loop_state import get_loop_state, restore_loop_state
from gpstoken_jax.training.memory import memory_in_use
from gpstoken_jax.training.metric_log import MetricLog
from gpstoken_jax.training.non_finite import SkippedSteps
from gpstoken_jax.training.prefetch import DevicePrefetcher
from gpstoken_jax.training.profile import Profile
from gpstoken_jax.training.step import on_all_devices, replicate
from gpstoken_jax.training.step_timer import StepTimer
from gpstoken_jax.training.stop_signals import EXIT_CODE, StopSignals, StopVote
from gpstoken_jax.training.task import Batches, Task, create_task

__all__ = [
    "EXIT_CODE",
    "Batches",
    "BestCheckpoint",
    "DevicePrefetcher",
    "MetricLog",
    "Profile",
    "SkippedSteps",
    "StepTimer",
    "StopSignals",
    "StopVote",
    "Task",
    "Work",
    "check_evaluation",
    "check_free_space",
    "create_task",
    "evaluation_interval",
    "format_seconds",
    "get_loop_state",
    "is_due",
    "memory_in_use",
    "on_all_devices",
    "replicate",
    "restore_loop_state",
]
