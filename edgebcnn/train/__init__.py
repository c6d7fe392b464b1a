"""How labelled photos become a full model and its compact replacement."""
