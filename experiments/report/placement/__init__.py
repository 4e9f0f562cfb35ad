"""The report's part about placement windows."""
