"""Pictures: graph over frames, curves, matrices, the HTML report. The only importer of
matplotlib.
"""
