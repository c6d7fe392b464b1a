"""A generated shelf of look-alike products, and the full workflow on it."""
