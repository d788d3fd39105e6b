"""ONNX, engines, the gate and the signed bundle (needs torch and onnx)."""
