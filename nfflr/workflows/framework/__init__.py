"""Parts of all workflows: settings, results, scores, and how the command line finds them."""
