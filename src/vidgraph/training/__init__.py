"""The training loop on Fabric; optimiser, schedule and phases as plain functions beside it."""
