"""What pages read of folders: tolerant of files that are missing, half-written or damaged, and of huge ones."""
