"""What all workflows share: settings, results, scores, and how the command line finds them."""
