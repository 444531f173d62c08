"""`ExecutorMacros`: words in a task's arguments and environment that each executor fills in its own way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from string import Template
from typing import TYPE_CHECKING, ClassVar

from nemo_prefect.configurable import ConfigurableMixin

if TYPE_CHECKING:
    from nemo_prefect.executors.base import RenderedJob

_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(kw_only=True)
class ExecutorMacros(ConfigurableMixin):
    """The names of the environment variables in which an executor's jobs find what they have to know of their nodes.

    A macro expands to the variable's *name*, as in NeMo-Run. Its value is written ``"$$"`` plus the macro.

    Example:
        ```python
        run.Script("train.sh", env={"MASTER_ADDR": "$$" + run.ExecutorMacros.HEAD_NODE_IP_VAR})
        ```

    Args:
        head_node_ip_var: holds the address of the job's first node.
        nproc_per_node_var: holds how many processes a launcher starts on each node.
        num_nodes_var: holds the number of nodes.
        node_rank_var: holds the node's own number, from 0.
        het_group_host_var: with ``_0``, ``_1``, … holds the first host of that member of a group.
        ft_launcher_cfg_path_var: holds the path of the fault-tolerance launcher's configuration.
    """

    HEAD_NODE_IP_VAR: ClassVar[str] = "${head_node_ip_var}"
    NPROC_PER_NODE_VAR: ClassVar[str] = "${nproc_per_node_var}"
    NUM_NODES_VAR: ClassVar[str] = "${num_nodes_var}"
    NODE_RANK_VAR: ClassVar[str] = "${node_rank_var}"
    FT_LAUNCHER_CFG_PATH_VAR: ClassVar[str] = "${ft_launcher_cfg_path_var}"

    head_node_ip_var: str
    nproc_per_node_var: str
    num_nodes_var: str
    node_rank_var: str
    het_group_host_var: str
    ft_launcher_cfg_path_var: str = "FAULT_TOL_CFG_PATH"

    @staticmethod
    def group_host(index: int) -> str:
        """A word that stands for the first host of a group's member.

        Args:
            index: which member, from 0.
        """
        return f"$$${{het_group_host_var}}_{index}"

    def substitute(self, arg: str, values: Mapping[str, str] | None = None) -> str:
        """`arg` with its macros expanded.

        Text without a macro stays as it is, doubled dollar signs included.

        Args:
            arg: an argument, or the value of an environment variable.
            values: what the variables hold, where that is known beforehand and no shell will look them up: references to
                them (``$name``) are replaced as well.
        """
        names = asdict(self)
        if not any(name in arg for name in names):
            return arg
        text = Template(arg).safe_substitute(names)
        return _REFERENCE.sub(lambda match: _value(match, values), text) if values else text

    def apply(self, job: RenderedJob, values: Mapping[str, str] | None = None) -> RenderedJob:
        """A copy of `job` with the macros in its arguments and its environment expanded.

        Args:
            job: what will run.
            values: as in `substitute`.
        """
        return replace(
            job,
            argv=tuple(self.substitute(arg, values) for arg in job.argv),
            env={name: self.substitute(value, values) for name, value in job.env.items()},
        )


def _value(reference: re.Match[str], values: Mapping[str, str]) -> str:
    """What `reference` refers to; of a group's numbered hosts, ``values`` need hold one for all."""
    name = reference[1] or reference[2]
    return values.get(name) or values.get(re.sub(r"_\d+\Z", "", name), reference[0])
