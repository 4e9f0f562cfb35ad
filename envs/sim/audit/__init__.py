"""The independent checker: what must hold of states and between them, whatever the engine does."""
