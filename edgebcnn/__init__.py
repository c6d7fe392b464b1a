"""edgebcnn: bilinear CNN product classifiers, from a store's photos to the shelf."""

__version__ = "0.1.0"
