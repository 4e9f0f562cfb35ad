"""Machine reassignment: the problem of the ROADEF/EURO challenge 2012, its files, costs and constraints."""
