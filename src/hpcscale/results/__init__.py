"""What a run directory holds, as tables for the analysis: losses, curves, overlap, costs, setting.

Everything is read from files that tasks wrote; values that an older run lacks stay empty.
"""
