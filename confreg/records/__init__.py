"""Tables on disk: complete or absent, one file for each step."""
