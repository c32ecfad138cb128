"""Other people's training frameworks, an object each; a module is imported by its full name."""
