"""TIMIT speech corpus as frames of log-power spectra."""
