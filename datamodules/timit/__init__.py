"""Speech: the TIMIT corpus as frames of log-power spectra."""
