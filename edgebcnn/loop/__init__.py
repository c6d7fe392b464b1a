"""What happens to each frame: check, inference, reading, and supervision of the loop."""
