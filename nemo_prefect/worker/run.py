"""Builds a task from its JSON and calls it, inside the job.

Standard library only, Python 3.8 and later: the job's image needs neither this package nor Fiddle nor Prefect. Started as
``python run.py TASK_FILE``. `nemo_prefect.payload` writes the file and says what it looks like.
"""

import base64
import functools
import importlib
import importlib.util
import json
import os
import sys
import time
import types

PACKAGE = "nemo_prefect"
MAIN = "__external_main__"  # the launching script, imported under this name so that its main guard stays shut


def load_main(path):
    """Import the launching script's copy, once."""
    if MAIN in sys.modules:
        return sys.modules[MAIN]
    spec = importlib.util.spec_from_file_location(MAIN, path)
    module = importlib.util.module_from_spec(spec)
    module.__loading__ = True
    sys.modules[MAIN] = module
    stand_in = None if importlib.util.find_spec(PACKAGE) else StandIn()
    if stand_in:
        sys.meta_path.append(stand_in)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if type(error).__name__ != "ExternalMainLoaded":  # it got as far as its experiment: all is defined
            raise
    finally:
        module.__loading__ = False
        if stand_in:
            stand_in.end()
    return module


class ExternalMainLoaded(BaseException):
    """As in `nemo_prefect.external_main`: the script got as far as its experiment."""


class StandIn:
    """Imports an empty nemo_prefect where there is none, so that a launching script that imports it defines its functions.

    Its names can be used as scripts use them at their top level: called, as decorators, as base classes, in annotations.
    Once the script is loaded, using one is an error: nothing pretends to have done what it did not do.
    """

    def __init__(self):
        self.loading = True

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == PACKAGE and self.loading:
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: Name(self, spec.name, name)
        return module

    def exec_module(self, module):
        pass

    def end(self):
        self.loading = False
        sys.meta_path.remove(self)
        for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


class Name:
    """Any name of the package that is not there."""

    def __init__(self, stand_in, owner, name):
        if name.startswith("__"):
            raise AttributeError(name)
        self._stand_in, self._path = stand_in, "%s.%s" % (owner, name)

    def __call__(self, *args, **kwargs):
        if not self._stand_in.loading:
            raise ImportError("%s was used inside a job whose Python has no %s" % (self._path, PACKAGE))
        if self._path == PACKAGE + ".Experiment":
            raise ExternalMainLoaded
        if len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type)):
            return args[0]  # a decorator
        return Name(self._stand_in, self._path, "call")

    def __getattr__(self, name):
        return Name(self._stand_in, self._path, name)

    def __getitem__(self, key):
        return self

    def __mro_entries__(self, bases):
        return ()


class Builder:
    """Turns the file's nodes into objects; a node that is referred to twice is built once."""

    def __init__(self, nodes, main):
        self.nodes = nodes
        self.main = main
        self.built = {}

    def symbol(self, name):
        module, _, qualname = name.partition(":")
        target = load_main(self.main) if module in ("__main__", MAIN) else importlib.import_module(module)
        for part in qualname.split("."):
            target = getattr(target, part)
        return target

    def value(self, data):
        if not isinstance(data, dict):
            return data
        ((kind, content),) = data.items()
        if kind == "node":
            if content not in self.built:
                self.built[content] = self.node(self.nodes[content])
            return self.built[content]
        if kind == "symbol":
            return self.symbol(content)
        if kind == "list":
            return [self.value(v) for v in content]
        if kind == "tuple":
            return tuple(self.value(v) for v in content)
        if kind == "set":
            return {self.value(v) for v in content}
        if kind == "frozenset":
            return frozenset(self.value(v) for v in content)
        if kind == "dict":
            return {self.value(k): self.value(v) for k, v in content}
        if kind == "float":
            return float(content)
        if kind == "complex":
            return complex(content)
        if kind == "bytes":
            return base64.b64decode(content)
        raise ValueError("The task file has a value of unknown kind %r; was it written by a newer version?" % kind)

    def node(self, data):
        if data["kind"] in ("list", "dict", "set"):  # shared containers
            return self.value({data["kind"]: data["value"]})
        target = self.symbol(data["symbol"])
        args = [self.value(v) for v in data["args"]]
        kwargs = {name: self.value(v) for name, v in data["kwargs"].items()}
        if data["kind"] == "config":
            return target(*args, **kwargs)
        if data["kind"] == "partial":
            factories = data.get("factories", [])
            return (
                call_factories(target, factories, args, kwargs) if factories else functools.partial(target, *args, **kwargs)
            )
        raise ValueError("The task file has a node of unknown kind %r; was it written by a newer version?" % data["kind"])


def call_factories(target, factories, args, kwargs):
    """A partial whose arguments named in `factories` are made anew at each call (Fiddle's ArgFactory)."""

    def call(*more, **overrides):
        made = {k: (v() if k in factories and k not in overrides else v) for k, v in kwargs.items()}
        made.update(overrides)
        return target(*args, *more, **made)

    return call


def report(step, total=None, **metrics):
    """Say how far the task is: shown on the run's page while it runs.

    Args:
        step: how many steps are done.
        total: of how many, or None.
        **metrics: the latest values, such as loss=0.1.

    Only rank 0 is heard. Outside of a job, and where the file cannot be written, nothing happens.
    """
    directory = os.environ.get("NEMO_PREFECT_ARTIFACTS")
    if not directory or os.environ.get("RANK", "0") != "0":
        return
    shown = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    temporary = os.path.join(directory, ".progress.%d.tmp" % os.getpid())
    try:
        os.makedirs(directory, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as f:
            json.dump({"step": step, "total": total, "metrics": shown, "time": time.time()}, f, default=str)
        os.replace(temporary, os.path.join(directory, "progress.json"))
    except OSError:  # a full disk must not end a training
        pass


def offer_report():
    """Let the task import `report` from nemo_prefect_worker, where nemo_prefect is not installed too."""
    module = types.ModuleType("nemo_prefect_worker")
    module.report = report
    sys.modules[module.__name__] = module


def main(task_file):
    offer_report()
    with open(task_file, encoding="utf-8") as f:
        task = json.load(f)
    for entry in task.get("sys_path", []):
        if entry not in sys.path and os.path.isdir(entry):
            sys.path.append(entry)
    main_file = os.path.join(os.path.dirname(os.path.abspath(task_file)), task["main"]) if task.get("main") else None
    builder = Builder(task["nodes"], main_file)
    builder.value(task["root"])()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory holds nothing that the task should import
    main(sys.argv[1])
