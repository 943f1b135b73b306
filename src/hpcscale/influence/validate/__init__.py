"""Experiments with a known answer, which test whether influence scores are correct."""
