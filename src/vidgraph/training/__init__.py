"""The Lightning module and data module, with optimiser and schedule as plain functions beside
them.
"""
