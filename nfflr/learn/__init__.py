"""From a few structures and a slow calculator, the teacher, to a fast potential for that material."""
