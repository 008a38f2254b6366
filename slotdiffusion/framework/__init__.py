"""What the tasks of SlotDiffusion have in common, beside what they share with SlotFormer's."""
