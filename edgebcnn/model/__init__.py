"""The bilinear CNN: backbones, streams, pooling heads, compression of a trained head."""
