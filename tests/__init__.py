"""The tests, laid out like the packages. (A package, since some distributions install one of this name.)"""
