"""What can be a teacher, and what can be a student."""
