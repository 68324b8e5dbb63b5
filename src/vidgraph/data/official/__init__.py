"""One file per official label format: each has `read_labels`, and is a verb below `vidgraph data
make`.
"""
