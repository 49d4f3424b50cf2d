"""Distributed tasks, actors and object refs for programs that are already asyncio programs.

General layout: the floors, imports pointing down only, are

    cli, demo, testing   doors
    api                  what a user types; re-exported here
    runtime              a node at work
    io                   sockets, processes, clocks
    core, wire           the rules as machines without input or output; frames and pickles
    values               ids, errors, configuration
"""

from actorfw import errors
from actorfw.api.actors import Actor, ActorHandle
from actorfw.api.cluster import LocalCluster
from actorfw.api.groups import placement_group, remove_placement_group
from actorfw.api.life import Node, NodeContext, init, run, shutdown
from actorfw.api.methods import method
from actorfw.api.remote import arg, remote
from actorfw.api.verbs import (
    as_completed,
    available_resources,
    cancel,
    cluster_resources,
    context,
    drain,
    exit_actor,
    gather,
    get,
    get_actor,
    info,
    kill,
    nodes,
    objects,
    put,
    put_async,
    stop,
    wait,
)
from actorfw.api.watching import Restarted, Terminated, events, watch
from actorfw.errors import (
    ActorDiedError,
    ActorExistsError,
    ActorFwError,
    ActorNotFoundError,
    ActorUnavailableError,
    AuthenticationError,
    BlockingCallError,
    DeadlineExceededError,
    DeadlockError,
    GetTimeoutError,
    MailboxFullError,
    NodeClosedError,
    NodeDiedError,
    NoQuorumError,
    NotInitializedError,
    ObjectLostError,
    ObjectStoreFullError,
    OverloadedError,
    OwnerDiedError,
    PeerLostError,
    PeerUnreachableError,
    ProtocolError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    UnschedulableError,
    UsageError,
    VersionMismatchError,
    WorkerDiedError,
)
from actorfw.runtime.context import CallContext
from actorfw.runtime.refs import ObjectRef, Reply
from actorfw.runtime.rows import ActorInfo, DrainReport, NodeRow, ObjectRow
from actorfw.runtime.runtimeenv import RuntimeEnv
from actorfw.runtime.streams import Stream
from actorfw.values import __version__ as __version__
from actorfw.values.config import Config
from actorfw.values.events import (
    ActorEnded,
    ActorRestarted,
    Event,
    EventsDropped,
    NameConflict,
    NodeDied,
    NodeEvent,
    NodeJoined,
    NodeLeaving,
    NodeLeft,
    NodeResumed,
    NodeStalled,
    NodeSuspected,
    NodeUp,
    Reborn,
    TellFailed,
)
from actorfw.values.scheduling import Bundle, Labels, NodeAffinity, PlacementGroup
from actorfw.values.tls import TLS

__all__ = [
    # a node's life
    "Config",
    "LocalCluster",
    "Node",
    "NodeContext",
    "TLS",
    "init",
    "run",
    "shutdown",
    # tasks
    "Bundle",
    "Labels",
    "NodeAffinity",
    "PlacementGroup",
    "RuntimeEnv",
    "Stream",
    "arg",
    "remote",
    # objects
    "ObjectRef",
    "ObjectRow",
    "Reply",
    "as_completed",
    "cancel",
    "gather",
    "get",
    "objects",
    "put",
    "put_async",
    "wait",
    # actors
    "Actor",
    "ActorHandle",
    "ActorInfo",
    "Restarted",
    "Terminated",
    "exit_actor",
    "get_actor",
    "info",
    "kill",
    "method",
    "stop",
    "watch",
    # the cluster
    "CallContext",
    "DrainReport",
    "NodeRow",
    "available_resources",
    "cluster_resources",
    "context",
    "drain",
    "events",
    "nodes",
    "placement_group",
    "remove_placement_group",
    # events
    "ActorEnded",
    "ActorRestarted",
    "Event",
    "EventsDropped",
    "NameConflict",
    "NodeDied",
    "NodeEvent",
    "NodeJoined",
    "NodeLeaving",
    "NodeLeft",
    "NodeResumed",
    "NodeStalled",
    "NodeSuspected",
    "NodeUp",
    "Reborn",
    "TellFailed",
    # errors
    "ActorDiedError",
    "ActorExistsError",
    "ActorFwError",
    "ActorNotFoundError",
    "ActorUnavailableError",
    "AuthenticationError",
    "BlockingCallError",
    "DeadlineExceededError",
    "DeadlockError",
    "GetTimeoutError",
    "MailboxFullError",
    "NoQuorumError",
    "NodeClosedError",
    "NodeDiedError",
    "NotInitializedError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OverloadedError",
    "OwnerDiedError",
    "PeerLostError",
    "PeerUnreachableError",
    "ProtocolError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "UnschedulableError",
    "UsageError",
    "VersionMismatchError",
    "WorkerDiedError",
    "errors",
]
