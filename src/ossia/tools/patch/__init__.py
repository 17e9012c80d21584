"""apply_patch: reads patches in the format that gpt-oss was trained on, and applies them to the files of one folder."""
