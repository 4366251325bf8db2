"""What a reindex is made of: the release it builds on, what that release already holds, and what needn't be done."""
