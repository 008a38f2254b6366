"""Models of SlotDiffusion, and the parts that they are built from."""
