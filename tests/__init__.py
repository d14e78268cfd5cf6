"""The tests of meshd; what holds for all of them is in conftest.py."""
