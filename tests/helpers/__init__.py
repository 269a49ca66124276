"""What several test files use. Test files do not import each other."""
