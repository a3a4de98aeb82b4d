"""The parts of tools/speed.py: models of single layers, and times."""
