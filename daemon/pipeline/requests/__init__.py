"""An operator's requests about single montages: retry, dismiss, decide about the quality."""
