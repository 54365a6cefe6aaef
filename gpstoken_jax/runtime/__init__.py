"""Runs on disk and in processes: checkpoints, run directories, devices, progress."""
