"""The paper's mathematics: pure functions on tensors, in nats, of any floating dtype."""
