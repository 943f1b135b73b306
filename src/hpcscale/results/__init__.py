"""What a run directory holds, as tables for the analysis: losses, curves, overlap, costs, setting.

Everything is read from files that tasks left; what an older run does not hold stays empty.
"""
