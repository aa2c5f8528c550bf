"""Presence: which agents have a connection that says so. Not membership, which is of a context and lasts."""

from __future__ import annotations

from ..shapes import NamedTuple
from .outcome import Decision
from .view import AGENTS, PRESENCE, Agent, Present, State, View

# Commands


class Arrive(NamedTuple):
    """An agent is there."""

    agent: str


class Depart(NamedTuple):
    """Agents are gone, when they were last there (microseconds), and whether that is because the daemon ended."""

    agents: tuple[str, ...]
    seen_at: int
    restart: bool


# Events; none belongs to a context


class AgentPresent(NamedTuple):
    agent: str


class AgentsGone(NamedTuple):
    agents: tuple[str, ...]
    seen_at: int
    restart: bool


def decide_arrive(view: View, command: Arrive) -> Decision:
    return [AgentPresent(command.agent)] if view.get(PRESENCE, command.agent) is None else []


def decide_depart(view: View, command: Depart) -> Decision:
    agents = tuple(agent for agent in command.agents if view.get(PRESENCE, agent) is not None)
    return [AgentsGone(agents, command.seen_at, command.restart)] if agents else []


# Folds


def apply_present(state: State, seq: int, ts: int, event: AgentPresent) -> None:
    state.put(PRESENCE, event.agent, Present(ts))
    agent = state.get(AGENTS, event.agent)
    state.put(AGENTS, event.agent, Agent(ts, ts, 0) if agent is None else agent._replace(last_seen=ts))


def apply_gone(state: State, seq: int, ts: int, event: AgentsGone) -> None:
    for name in event.agents:
        state.delete(PRESENCE, name)
        agent = state.get(AGENTS, name)
        assert agent is not None, "who is present has been seen"
        state.put(AGENTS, name, agent._replace(last_seen=max(agent.last_seen, event.seen_at)))
