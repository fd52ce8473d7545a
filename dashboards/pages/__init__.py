"""The pages: each module answers the requests of one kind of thing."""
