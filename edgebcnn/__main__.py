"""`python -m edgebcnn` is the `edgebcnn` command."""

from edgebcnn.cli import main

main()
