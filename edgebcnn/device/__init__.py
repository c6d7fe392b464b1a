"""How a bundle runs on this machine: runtimes, delegates, classification, checks, benchmarks."""
