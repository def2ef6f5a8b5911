"""What is measured: the demo, the paper's tables, and the files and figures that they leave."""
