"""What is learned, and how it is wired and run."""
