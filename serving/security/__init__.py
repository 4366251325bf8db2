"""Who is let in: TLS, tokens, and what each may do."""
