"""What stands in each slot of a shelf: slots file, states, compliance."""
