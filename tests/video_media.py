"""For the video workload's tests: where it lies and what it comes with."""

import sys

from conftest import REPO

FOLDER = REPO / "video-ai-workload"
CLIP = FOLDER / "pharmacy_drivethru.mp4"
MODEL = FOLDER / "yolov8n-seg_openvino_model" / "yolov8n-seg.xml"
DEMO_WEIGHTS = FOLDER / "demo" / "yolov8n-seg-demo.pt"
ONE_PASS = ("--num_iters", "1", "--warmup", "0")
sys.path[:0] = [str(FOLDER), str(FOLDER / "demo")]
