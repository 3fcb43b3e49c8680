"""Pages for people: what they show, their templates, script and style."""
