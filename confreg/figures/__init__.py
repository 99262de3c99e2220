"""Records become figures and a page; needs neither torch nor a network."""
