"""The render-ws client: requests, answers, names, tile specs as they go over the wire."""
