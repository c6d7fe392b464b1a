"""The web pages: a live run, and drawing the slots of a shelf."""
