"""What computes: torch, NumPy, OpenCV and PyAV; knows nothing of Ray, the store or the DAG."""
