"""Learners that differ in their seed alone, and learn in a batch: equal to single ones."""
