"""Documents become fixed blocks of token ids in three parts: train, reference, measured."""
