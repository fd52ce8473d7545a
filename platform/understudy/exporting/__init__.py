"""Policies as one file that acts without understudy: torch's exported program, TorchScript, ONNX."""
