"""Monitors the model during a run: golden photos, the full model in the background, alarms."""
