"""Lightning: the module that trains, and the order of its data."""
