"""The model card of an exported step: text and figures from the run's records."""
