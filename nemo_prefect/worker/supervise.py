"""Runs one job's command and outlives whoever launched it.

Standard library only, Python 3.8 and later; started as ``python -I -S supervise.py JOB_FILE`` in a session of its own.
It takes the job's lock, starts the command with its output in files, passes signals on, and when the command ends writes
the exit record, after the last process that the command left behind is gone.

The job file is JSON: ``{key, attempt, argv, env, cwd, directory, grace}``.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: orphans of the job come to this process, so that none escapes a cancel


def write_json(path, data):
    """Write a file so that a reader sees all of it or nothing."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    with open(temporary, "w") as out:
        json.dump(data, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def descendants(root):
    """The process ids below `root`, by the kernel's own list where there is one, else by ``ps``."""
    parents = {}
    if os.path.isdir("/proc/self"):
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open("/proc/%s/stat" % name, "rb") as f:
                        fields = f.read().rpartition(b")")[2].split()
                except OSError:
                    continue
                if fields[0] != b"Z":
                    parents[int(name)] = int(fields[1])
    else:
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE).stdout.decode()
        for line in listing.splitlines():
            pid, parent, stat = line.split()[:3]
            if not stat.startswith("Z"):
                parents[int(pid)] = int(parent)
    found, added = {root}, True
    while added:
        new = {pid for pid, parent in parents.items() if parent in found} - found
        found |= new
        added = bool(new)
    return found - {root}


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def end_tree(grace):
    """End everything below this process: TERM, up to `grace` seconds, then KILL."""
    deadline = time.monotonic() + grace
    left = descendants(os.getpid())
    send(left, signal.SIGTERM)
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        reap()
        left = descendants(os.getpid())
    while left:
        send(left, signal.SIGKILL)
        time.sleep(0.02)
        reap()
        left = descendants(os.getpid())


def reap():
    """Collect children that ended (orphans adopted from the job); the command itself is waited for elsewhere."""
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if info is None or info.si_pid == COMMAND[0]:
            return
        try:
            os.waitpid(info.si_pid, os.WNOHANG)
        except ChildProcessError:
            return


COMMAND = [0]  # the command's process id; a list, for the signal handler and `reap` to see


def main(job_file):
    with open(job_file) as f:
        job = json.load(f)
    directory, grace = job["directory"], job["grace"]
    try:
        os.mkdir(os.path.join(directory, "lock"))
    except FileExistsError:
        return  # another submission of the same attempt got here first
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(job.get("umask", 0o022))
    start = time.time()
    record = {"key": job["key"], "attempt": job["attempt"], "host": os.uname().nodename, "start": start}
    state = {"cancelled": False}

    def on_signal(number, frame):
        state["cancelled"] = True
        send(descendants(os.getpid()), signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, grace)

    def on_alarm(number, frame):
        send(descendants(os.getpid()), signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    write_json(os.path.join(directory, "process.json"), dict(record, pid=os.getpid()))
    exit_code, number, message = None, None, ""
    try:
        out = open(os.path.join(directory, "stdout.log"), "ab")  # noqa: SIM115 - closed below
        err = open(os.path.join(directory, "stderr.log"), "ab")  # noqa: SIM115
        with out, err:
            command = subprocess.Popen(
                job["argv"], cwd=job["cwd"], env=job["env"], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        COMMAND[0] = command.pid
        if state["cancelled"]:  # the signal came before there was a command to pass it on to
            send([command.pid], signal.SIGTERM)
        code = command.wait()
        if code < 0:
            number = -code
        else:
            exit_code = code
    except OSError as error:
        exit_code, message = 127, "%s could not be started: %s" % (job["argv"][0], error)
        with open(os.path.join(directory, "stderr.log"), "a") as err:
            err.write(message + "\n")
    COMMAND[0] = 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    end_tree(min(grace, 2.0))
    record.update(end=time.time(), exit_code=exit_code, signal=number, cancelled=state["cancelled"], message=message)
    write_json(os.path.join(directory, "exit.json"), record)


if __name__ == "__main__":
    main(sys.argv[1])
