"""The stand-in for render-ws, in memory, with the routes, rules, texts and status codes of render-ws."""
