"""A transformers model from a configuration, and what measurements may see of it."""
