"""Parts of molecular dynamics: ensembles, the start, the guard, the run, its analysis and its verdict."""
