"""Training: state, optimiser by group, the jitted step, the loop, checkpoints, metrics."""
