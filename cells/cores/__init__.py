"""Cores: the recurrences behind a drive, and the named cells of each core with every drive.

``base`` is what all cores share; each other file holds one family: tanh, LSTM, GRU, JANET, UR-LSTM, orthogonal, ...
"""
