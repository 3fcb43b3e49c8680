"""The render-ws client: requests, answers, legal names, and tile specs in the form that render-ws exchanges."""
