"""Problems generated from random numbers."""
