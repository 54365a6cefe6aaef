"""Training: state, optimizer, step, checkpoints, logs. The story that joins them is train.py."""
