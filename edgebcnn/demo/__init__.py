"""A generated shelf of look-alike products, and the whole job done on it."""
