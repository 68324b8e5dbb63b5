"""What is computed once per video and stored: boxes of regions, and optical flow."""
