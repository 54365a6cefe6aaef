"""`make gpu`: everything that wants measuring on a GPU, in stages that cannot spoil each other."""
