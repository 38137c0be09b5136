"""Small tables made from data, each by the program that its JSON names."""
