"""
Bytes nobody would send, against all that reads bytes: only errors of the error tree come out.

``python -m fuzz --seconds 60`` runs it; ``fuzz/corpus/`` holds what once broke something, and a few
inputs worth keeping, one folder for each target. Everything is decided by a seed.
"""
