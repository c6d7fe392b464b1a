"""Groups of flags that several commands share, and their sections in the help."""
