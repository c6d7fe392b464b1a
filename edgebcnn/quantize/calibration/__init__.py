"""Which photos calibrate an int8 model, and the range of each tensor."""
