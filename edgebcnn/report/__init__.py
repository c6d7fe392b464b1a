"""What our figures mean: statistics (`agreement`, `comparison`) and how they are shown (`render`)."""
