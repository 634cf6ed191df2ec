"""The frozen reference's errors, computed live or kept on disk."""
