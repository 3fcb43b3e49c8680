"""Requests to render-ws: TLS, login, proxies, time limits, retries, and reading what is answered."""
