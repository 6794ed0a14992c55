"""Model families; siblings that do not import each other."""
