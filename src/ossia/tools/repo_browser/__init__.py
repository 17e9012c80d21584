"""repo_browser: lists, searches, opens and patches the files of one folder for a model."""
