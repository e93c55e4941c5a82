"""Generated tools, and requests whose right call is known."""
