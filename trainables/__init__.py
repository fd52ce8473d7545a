"""Algorithms (one file each), their networks, the pack that trains K members at once, and the loops.

May import the kernel, and the store, windows and rollouts of `understudy.envs`; never ray or mlflow.
"""
