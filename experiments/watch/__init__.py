"""Watching an episode: a page that replays it, and a video."""
