"""HTML pages: their content, templates, script and style."""
