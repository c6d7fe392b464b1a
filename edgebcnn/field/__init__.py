"""Field samples: the frames that a device keeps, their audit, and their labeling."""
