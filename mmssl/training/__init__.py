"""A run from raw data to a model: what it is built of, the loop, its folder, and what is told of it."""
