"""How a trained run becomes a bundle: calibrate, convert, audit, gate."""
