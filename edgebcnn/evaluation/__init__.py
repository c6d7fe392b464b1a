"""How accurate a model is on labelled photos, and how far the edge model is from the full one in the field."""
