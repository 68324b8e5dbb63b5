"""Pictures: graph over frames, curves, matrices, the report. The only importer of matplotlib."""
