"""Which clips are kept so that the modality discrepancy is as uniform as possible over a range, overall and by class."""
