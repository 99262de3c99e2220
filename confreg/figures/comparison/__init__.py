"""One page on several runs: conditions over seeds, and what stands against comparing them."""
