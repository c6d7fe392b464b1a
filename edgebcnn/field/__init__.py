"""What a device keeps of what it saw, and how people label it."""
