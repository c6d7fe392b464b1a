"""What happens to each frame: check, classify, reading, and supervision of the loop."""
