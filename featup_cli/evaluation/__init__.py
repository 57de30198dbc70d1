"""Measuring methods on a user's data: tasks, what they run on, and their results."""
