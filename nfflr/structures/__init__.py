"""Structures from files, and checks of them, without torch."""
