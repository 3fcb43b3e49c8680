"""Work that is to be done again because a person says so: what is selected, what is done with each, how it ends."""
