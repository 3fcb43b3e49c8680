"""The render-ws client: requests, answers, legal names, tile specs in the form that render-ws exchanges."""
