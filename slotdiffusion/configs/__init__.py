"""Parts of configurations that several tasks share."""
