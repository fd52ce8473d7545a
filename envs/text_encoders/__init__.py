"""Text encoders: from a task's text to a vector, frozen. One file each, found by name (`language_encoder=`)."""
