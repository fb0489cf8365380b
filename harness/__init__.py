"""What all workloads share: describing the machine, measuring, placing threads, recording.

Knows no workload, and imports neither torch nor openvino.
"""
