"""What a `.tflite` file computes in, and which layers lose the accuracy."""
