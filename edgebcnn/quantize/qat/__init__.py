"""Quantization-aware training: fine-tuning with the rounding of int8 in the forward pass."""
