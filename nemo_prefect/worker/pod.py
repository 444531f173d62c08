"""Runs one job's command as the first process of a container.

Standard library only, Python 3.8 and later; started as ``python -I -S pod.py JOB_FILE`` from the read-only directory into
which the job's files are mounted. It copies these to a directory that can be written to, unpacks the code, waits, where the
job spans several pods, for the address of the first one, and runs the command with its output in the container's own.

The job file is JSON: ``{key, argv, cwd, root, files, directory, archive, folders, grace, nodes, gate}``. How the command
ended is written to the container's termination message, which the cluster keeps for as long as it keeps the pod.
"""

import base64
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import supervise

TERMINATION_LOG = os.environ.get("NEMO_PREFECT_TERMINATION_LOG", "/dev/termination-log")
#: How a line of the log begins that holds a piece of an artifact: mark, key, path, offset, size, base64.
FRAME = "::nemo-prefect-artifact::"
#: Bytes of artifacts that are sent back this way, and in one line: runtimes break lines of 16 KiB.
ARTIFACTS_AT_MOST = 1 << 20
PIECE = 8192
STATE = {"cancelled": False, "pid": 0}


def fill(text, values):
    """`text` with ``{{NAME}}`` replaced for the names in `values`: what is only known inside the pod."""
    for name, value in values.items():
        text = text.replace("{{%s}}" % name, value)
    return text


def lay_out(job, source):
    """Copy the mounted files below the job's own root, and unpack its code."""
    for relative in job["files"]:
        target = os.path.join(job["root"], relative)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(os.path.join(source, relative), target)
        os.chmod(target, 0o755)
    for folder in [os.path.join(job["directory"], "artifacts")] + job["folders"]:
        os.makedirs(folder, exist_ok=True)
    if job["archive"]:
        os.makedirs(job["cwd"], exist_ok=True)
        with tarfile.open(job["archive"]) as packed:
            if hasattr(tarfile, "fully_trusted_filter"):
                packed.extraction_filter = tarfile.fully_trusted_filter  # the user's own code
            packed.extractall(job["cwd"])


def wait_for_gate(path):
    """The address of the first pod, once whoever drives the job has written it on this pod: all pods run by then."""
    while not STATE["cancelled"]:
        try:
            with open(path) as gate:
                address = gate.read().strip()
        except OSError:
            address = ""
        if address:
            return address
        time.sleep(0.1)
    return ""


def send_artifacts(directory, key):
    """Write the files in `directory` to the log, for whoever fetches it to put them back together."""
    left = ARTIFACTS_AT_MOST
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, directory)
            size = os.path.getsize(path)
            if size > left:
                sys.stdout.write("The artifact %s (%d bytes) stays in the pod: %d bytes in all come back. Larger ones need "
                                 "a volume.\n" % (relative, size, ARTIFACTS_AT_MOST))  # fmt: skip
                continue
            left -= size
            encoded = base64.b64encode(relative.encode()).decode()
            with open(path, "rb") as f:
                offset = 0
                while True:
                    piece = f.read(PIECE)
                    if not piece and offset:
                        break
                    fields = (FRAME, key, encoded, offset, size, base64.b64encode(piece).decode())
                    sys.stdout.write("%s %s %s %d %d %s\n" % fields)
                    offset += len(piece)
                    if not piece:
                        break


def on_signal(number, frame):
    STATE["cancelled"] = True
    supervise.send(supervise.descendants(os.getpid()), signal.SIGTERM)


def await_file(target):
    """What the init container does: wait until the code was copied in."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    while not os.path.exists(target):
        time.sleep(0.1)
    return 0


def receive(target, size):
    """Write `size` bytes of the standard input to `target`, which appears once all of them are there."""
    temporary = "%s.%d.tmp" % (target, os.getpid())
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(temporary, "wb") as out:
        while size:
            piece = sys.stdin.buffer.read(min(size, 1 << 16))
            if not piece:
                return 1  # the connection broke
            out.write(piece)
            size -= len(piece)
    os.replace(temporary, target)
    return 0


def main(job_file):
    with open(job_file) as f:
        job = json.load(f)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(supervise.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    start = time.time()
    record = {"key": job["key"], "host": os.uname().nodename, "start": start}
    exit_code, number, message = None, None, ""
    try:
        lay_out(job, os.path.dirname(os.path.abspath(job_file)))
        known = {"MASTER_ADDR": "localhost", "NODE_RANK": os.environ.get("NODE_RANK", "0")}
        if job["nodes"] > 1:
            known["MASTER_ADDR"] = wait_for_gate(job["gate"])
        env = {name: fill(value, known) for name, value in os.environ.items()}
        env.setdefault("MASTER_ADDR", known["MASTER_ADDR"])
        if job["archive"]:  # what a task imports comes from the packed code
            env["PYTHONPATH"] = os.pathsep.join(p for p in (job["cwd"], env.get("PYTHONPATH")) if p)
        if STATE["cancelled"]:
            exit_code, message = 143, "it was ended before it started"
        else:
            argv = [fill(word, known) for word in job["argv"]]
            try:
                command = subprocess.Popen(argv, cwd=job["cwd"] or None, env=env, stdin=subprocess.DEVNULL)
            except OSError as error:
                exit_code, message = 127, "%s could not be started: %s" % (argv[0], error)
                sys.stderr.write(message + "\n")
            else:
                supervise.COMMAND[0] = command.pid
                if STATE["cancelled"]:
                    supervise.send([command.pid], signal.SIGTERM)
                code = command.wait()
                if code < 0:
                    number = -code
                else:
                    exit_code = code
    except (OSError, tarfile.TarError) as error:
        exit_code, message = 126, "the job's files could not be laid out: %s" % error
        sys.stderr.write(message + "\n")
    supervise.COMMAND[0] = 0
    supervise.end_tree(min(job["grace"], 2.0))
    try:
        send_artifacts(os.path.join(job["directory"], "artifacts"), job["key"])
    except OSError as error:
        sys.stderr.write("not all artifacts could be read: %s\n" % error)
    sys.stdout.flush()
    sys.stderr.flush()
    record.update(end=time.time(), exit_code=exit_code, signal=number, cancelled=STATE["cancelled"], message=message[:1000])
    try:
        with open(TERMINATION_LOG, "w") as out:
            json.dump(record, out)
    except OSError as error:
        sys.stderr.write("the exit record could not be written: %s\n" % error)
    return 128 + number if number is not None else exit_code


if __name__ == "__main__":
    if sys.argv[1] == "--await":
        sys.exit(await_file(sys.argv[2]))
    if sys.argv[1] == "--receive":
        sys.exit(receive(sys.argv[2], int(sys.argv[3])))
    sys.exit(main(sys.argv[1]))
