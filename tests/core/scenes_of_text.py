"""Scenes that cost nothing, for worker processes to import."""

import time


def make(index: int) -> dict[str, bytes]:
    return {f"scenes/{index}/a.txt": f"scene {index}".encode(), f"scenes/{index}/b.txt": bytes(index)}


def slow(index: int) -> dict[str, bytes]:
    time.sleep(0.03)
    return make(index)
