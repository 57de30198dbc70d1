"""Feature files in the formats that other programs read."""

from featup_cli.export.run import FORMATS, export_features

__all__ = ["FORMATS", "export_features"]
