"""What everything stands on: errors, memory, shapes, settings, references."""
