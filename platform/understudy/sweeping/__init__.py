"""Sweeps: Ray Tune runs the trials, Optuna proposes them, ASHA stops the poor ones, each trial is a pack of seeds."""
