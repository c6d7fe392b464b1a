"""Bounds what comes from outside before anything uses it: documents and tables, photos and frames."""
