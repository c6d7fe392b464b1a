"""The networks: backbones, bilinear pooling, and the full and compact models made of them."""
