"""Official label files, one module per format: its `read_labels` gives the labelled videos, and the
module is a verb below `vidgraph data make`.
"""
