"""Goal strategies: which later state a step is shown as its goal. One file each, named by `goal_relabelling=`."""
