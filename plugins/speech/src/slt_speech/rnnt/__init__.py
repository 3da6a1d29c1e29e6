"""Transducers (RNN-T): loss, networks, searches and streaming."""
