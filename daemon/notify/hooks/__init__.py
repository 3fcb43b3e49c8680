"""Events of montages for other programs: each is sent to an address or given to a program until it is accepted."""
