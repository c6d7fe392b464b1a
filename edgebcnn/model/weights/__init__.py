"""Weights that a stream starts from: published ones, files of tensors, and which of them fit."""
