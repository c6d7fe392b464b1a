"""How well the model does while it runs: golden photos, the full model in the background, alarms."""
