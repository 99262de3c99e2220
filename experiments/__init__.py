"""Who runs it: entry points and the registration of the schemas."""
