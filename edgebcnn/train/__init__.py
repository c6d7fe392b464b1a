"""From labelled photos to a trained full model and its compact replacement."""
