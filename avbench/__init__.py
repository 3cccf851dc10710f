"""avbench: audiovisual modality imbalance, measured."""
