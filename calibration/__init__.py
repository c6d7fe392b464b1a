"""Calibration recipes, one TOML file each; `README.md` teaches calibration."""
