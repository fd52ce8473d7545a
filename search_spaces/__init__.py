"""Search spaces: one file per algorithm, what is swept and over which values. May import trainables' configs."""
