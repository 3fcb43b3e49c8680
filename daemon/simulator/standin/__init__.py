"""The stand-in for render-ws: its routes, rules, texts and status codes, in memory."""
