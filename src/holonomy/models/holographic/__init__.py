"""One-pass memories as a language model: exact counts, superposed bindings, and what a context says by itself."""
