"""`temwatch verify` and `temwatch manifest`: read the results of COMPLETE montages again."""
