"""What needs a forward pass: interventions in any layer, run through the model itself, and the checks that they act as predicted."""
