"""Which photos a data set holds: layouts, inspection, near-duplicates, splits."""
