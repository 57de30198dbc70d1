"""The guided filter."""
