"""Whether tflite-runtime 2.14 runs a model file, with the same results."""
