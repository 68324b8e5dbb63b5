"""`vidgraph train FOLDER|TABLE`: a recogniser of one's own clips, without a recipe."""
