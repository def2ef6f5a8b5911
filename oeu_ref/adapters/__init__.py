"""Code of PyTorch and JAX as implementations of the contract, to be judged by the laws."""
