"""The laboratory: networks, training, rivals, the demo, the paper's tables, and the files that they leave."""
