"""From a trained run to a bundle: calibrate → convert → audit → evaluate → bundle."""
