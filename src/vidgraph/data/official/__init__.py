"""One file per official label format: each has `make_table`, and is a verb below `vidgraph data make`."""
