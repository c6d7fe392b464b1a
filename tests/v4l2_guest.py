"""Runs `edgebcnn` on a V4L2 camera that is unplugged, silent, broken or taken. `v4l2_camera.sh` boots this.

It runs as root in a machine that has no camera but the kernel's `vivid`, and needs nothing but the base package.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

EDGEBCNN = Path(sys.executable).with_name("edgebcnn")
LINK = "/dev/v4l/by-path/platform-vivid.0-video-index0"
DRIVER = Path("/sys/bus/platform/drivers/vivid")
DEVICE = "vivid.0"
READINGS, SUMMARY, SAID = Path("readings.jsonl"), Path("summary.json"), Path("said")
BACK = " is back: "

AWAY_S = 4.0
RETURN_S = 3.0  # what the loop promises
STOP_S = {"kvm": 1.0, "tcg": 2.0}  # the promise, and twice that where the processor is emulated
PATIENCE_S = 90.0  # an emulated processor needs a while until the loop turns
SOON_S = 0.5  # a frame that was taken before a fault may be told so much later

Json = dict[str, Any]
Span = tuple[float, float]  # seconds, by the clock


def main(bundle: str) -> None:
    """Prints what was seen, and what of it is wrong."""
    problems: list[str] = []

    def expect(holds: bool, otherwise: str) -> None:
        if not holds:
            problems.append(otherwise)
            say(f"WRONG: {otherwise}")

    document = seen(bundle, expect)
    document |= {"problems": problems, "passed": not problems}
    print(json.dumps(document, indent=2))


Expect = Callable[[bool, str], None]


def seen(bundle: str, expect: Expect) -> Json:
    """Everything, one after the other."""
    shell("busybox", "modprobe", "vivid", "node_types=0x1", "num_inputs=1", "input_types=0")
    shell("udevadm", "settle")
    run = [str(EDGEBCNN), "run", "--bundle", bundle]
    return {
        "machine": {"kernel": platform.release(), "accelerator": accelerator()},
        "devices": devices(expect),
        "run": undisturbed(run, expect),
        "refused": refused([*run, "--camera", "0", "--size", "1000x700"], "films in ", expect),
        **disturbed(run, expect),
    }


def devices(expect: Expect) -> Json:
    """The camera as `edgebcnn devices` lists it."""
    say("edgebcnn devices")
    cameras: list[Json] = json.loads(shell(str(EDGEBCNN), "devices", "--json"))["cameras"]
    expect([camera["stable_path"] for camera in cameras] == [LINK], "devices does not list the camera with its link")
    return cameras[0]


def undisturbed(run: list[str], expect: Expect) -> Json:
    """20 s as the camera comes."""
    say("edgebcnn run --camera 0 --duration 20 --json")
    summary: Json = json.loads(shell(*run, "--camera", "0", "--duration", "20", "--json"))
    expect(summary["classified"] > 0, "no frame was classified")
    expect(not summary["restarts"] and not summary["unreadable"], "a camera that was left alone was lost")
    expect(summary["age_p50_ms"] is not None and summary["age_p50_ms"] < 1000, "frames are old")
    kept = ("source", "seen", "dropped", "classified", "refused", "restarts", "fps", "latency_p50_ms", "age_p50_ms")
    size = re.search(r"Width/Height\s*: (\d+)/(\d+)", shell("v4l2-ctl", "-d", LINK, "--get-fmt-video"))
    return {name: summary[name] for name in (*kept, "age_p95_ms")} | {"size_px": size and size.groups()}


def refused(command: list[str], reason: str, expect: Expect) -> Json:
    """A run that must end at once, in one sentence."""
    asked = " ".join(command[4:])
    say(f"edgebcnn run {asked}")
    ended = subprocess.run(command, capture_output=True, text=True)
    why = ended.stderr.strip()
    expect(ended.returncode == 7 and reason in why and "\n" not in why, f"refused with {ended.returncode}: {why}")
    return {"asked": asked, "exit_code": ended.returncode, "said": why}


def disturbed(run: list[str], expect: Expect) -> Json:
    """One long run, from one fault to the next."""
    say("edgebcnn run --camera 0, and what can happen to a camera")
    flags = ["--size", "320x180", "--camera-fps", "10", "--rotate", "90", "--json"]
    flags += ["--config", "frames.frozen_after = 2"]
    with SUMMARY.open("w") as summary, SAID.open("w") as said:
        loop = subprocess.Popen([*run, "--camera", "0", *flags, "--jsonl", str(READINGS)], stdout=summary, stderr=said)
    with contextlib.ExitStack() as stack:
        stack.callback(loop.kill)
        await_reading(since_s=0)
        films = shell("v4l2-ctl", "-d", LINK, "--get-fmt-video", "--get-parm")
        expect("320/180" in films and "10.000" in films, f"the camera does not film as it was asked: {films}")
        document: Json = {
            "taken": refused([*run, "--camera", LINK], "in use", expect),
            "pictures": [picture(reason, controls, expect) for reason, controls in PICTURES.items()],
            "losses": [loss(what, fault, expect) for what, fault in FAULTS.items()],
        }
        expect(loop.poll() is None, "the loop ended")
        document["stopped_after_s"] = stopped_after_s(loop)
    expect(document["stopped_after_s"] <= STOP_S[accelerator()], "SIGTERM took too long")
    expect(loop.returncode == 0, f"the loop ended with {loop.returncode}")
    restarts = json.loads(SUMMARY.read_text())["restarts"]
    expect(restarts == len(FAULTS), f"{restarts} restarts were counted")
    return document | {"restarts": restarts, "said": SAID.read_text().splitlines()}


PICTURES = {
    "black": {"test_pattern": 5, "osd_text_mode": 2},
    "overexposed": {"test_pattern": 6, "osd_text_mode": 2},
    "frozen": {"test_pattern": 10, "osd_text_mode": 2},
}


def picture(reason: str, controls: dict[str, int], expect: Expect) -> Json:
    """A picture that shows nothing: no product, and after it products again."""
    say(f"a picture that is {reason}")
    control(**controls)
    began_s = time.time()
    first = await_reading(began_s, reason)
    time.sleep(1)
    ended_s = time.time()
    control(test_pattern=0, osd_text_mode=0)
    between = [each for each in readings() if at_s(first) <= at_s(each) <= ended_s]
    products = sum(each["label"] is not None for each in between)
    expect(bool(between) and not products, f"{products} products of a picture that is {reason}")
    await_reading(time.time(), reason=None)
    return {"reason": reason, "told_after_s": round(at_s(first) - began_s, 2), "readings": len(between)}


def loss(what: str, fault: Callable[[], Span], expect: Expect) -> Json:
    """Frames stop, no reading is told meanwhile, and readings come again."""
    say(what)
    await_reading(time.time())
    losses = said().count(BACK)
    began_s = time.time()
    no_frame_from_s, no_frame_until_s = fault()
    ended_s = time.time()
    wait_until(lambda: said().count(BACK) > losses, f"the camera that was {what} is not back")
    times_s = [at_s(each) for each in readings() if at_s(each) >= began_s - 1]
    back_s = max(pairwise(times_s), key=lambda pair: pair[1] - pair[0])[1]
    meanwhile = sum(no_frame_from_s + SOON_S < each_s < no_frame_until_s for each_s in times_s)
    expect(not meanwhile, f"{what}: {meanwhile} readings while no frame came")
    expect(back_s - ended_s <= RETURN_S, f"{what}: back after {back_s - ended_s:.1f} s")
    told = {"what": what, "away_s": round(ended_s - began_s, 2), "back_after_s": round(back_s - ended_s, 2)}
    return told | {"device": os.path.realpath(LINK)}


def away() -> Span:
    """Waits, and says when no frame could come: what takes the camera and gives it back takes its time as well."""
    began_s = time.time()
    time.sleep(AWAY_S)
    return began_s, time.time()


def unplugged() -> Span:
    (DRIVER / "unbind").write_text(DEVICE)
    without_s = away()
    (DRIVER / "bind").write_text(DEVICE)
    return without_s


def another_number() -> Span:
    """While somebody holds the old device open, its number is not free."""
    before = os.path.realpath(LINK)
    with open(LINK, "rb"):
        without_s = unplugged()
    shell("udevadm", "settle")
    assert os.path.realpath(LINK) != before
    return without_s


def silent() -> Span:
    control(percentage_of_dropped_buffers=100)
    without_s = away()
    control(percentage_of_dropped_buffers=0)
    return without_s


def at_once(**values: int) -> Span:
    control(**values)
    return time.time(), time.time()


FAULTS: dict[str, Callable[[], Span]] = {
    "unplugged": unplugged,
    "unplugged, and back under another number": another_number,
    "silent": silent,
    "disconnected until it is let go": lambda: at_once(disconnect=1),
    "told of a streaming error": lambda: at_once(inject_fatal_streaming_error=1),
}


def stopped_after_s(loop: subprocess.Popen[bytes]) -> float:
    """SIGTERM, while the driver keeps the reader waiting."""
    say("SIGTERM to a run whose camera is silent")
    control(percentage_of_dropped_buffers=100)
    time.sleep(1)
    began_s = time.monotonic()
    loop.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        loop.wait(PATIENCE_S)
    return round(time.monotonic() - began_s, 2)


def await_reading(since_s: float, reason: str | None = "any") -> Json:
    """The first reading since then, of those with that reason to name no product."""
    found: list[Json] = []

    def has_come() -> bool:
        found[:] = [each for each in readings() if at_s(each) > since_s and reason in ("any", each["reason"])]
        return bool(found)

    wait_until(has_come, f"no reading, reason {reason}")
    return found[0]


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit(f"after {PATIENCE_S:g} s {otherwise}; the loop said: {said()}")
        time.sleep(0.2)


def readings() -> list[Json]:
    """The newest: a phase has fewer than these."""
    lines = READINGS.read_text().split("\n")[-201:-1] if READINGS.exists() else []
    return [json.loads(line) for line in lines]


def said() -> str:
    return SAID.read_text()


def at_s(reading: Json) -> float:
    return datetime.fromisoformat(reading["time"].replace("Z", "+00:00")).timestamp()


def accelerator() -> str:
    """What runs this machine: `kvm`, or `tcg`, which emulates its processor."""
    found = re.search(r"accelerator=(\w+)", Path("/proc/cmdline").read_text())
    assert found
    return found[1]


def control(**values: int) -> None:
    shell("v4l2-ctl", "-d", LINK, "-c", ",".join(f"{name}={value}" for name, value in values.items()))


def shell(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    return ended.stdout


def say(what: str) -> None:
    print(f"{time.monotonic():7.1f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
