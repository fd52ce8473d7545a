"""Picture encoders: from pictures of one shape to a vector. One file a family, found by name (`encoder=`)."""
