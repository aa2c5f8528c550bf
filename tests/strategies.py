"""Hypothesis strategies for the model: names, units, and every event of the log."""

from __future__ import annotations

from hypothesis import strategies as st

from engramd.protocol.unit import RELATIONSHIPS, TYPES
from engramd.state import consumers, contexts, locks, presence, redaction, restored, retention, tokens
from engramd.state import view as state_view
from engramd.state.machine import Event
from engramd.state.units import Edge, UnitPut

# Few characters, so that names are often prefixes of one another; what a name may hold, protocol/schema.py says.
NAMES = st.text(alphabet="ab:/. é\U0001f600", min_size=1, max_size=5).filter(lambda name: bool(name.strip()))
TEXTS = st.text(max_size=20)
LABELS = st.dictionaries(NAMES, TEXTS, max_size=3)
IDS = st.binary(min_size=16, max_size=16)
SEQS = st.integers(1, 2**63 - 1)
TIMES = st.integers(0, 2**62)
PAYLOADS = st.text(max_size=50) | st.binary(max_size=50)
COUNTS = st.integers(0, 2**40)
SPANS = st.lists(st.tuples(SEQS, SEQS), max_size=4).map(tuple)
WANTED = st.fixed_dictionaries({}, optional={"agents": st.lists(NAMES), "meta": LABELS, "related_to": IDS})  # a filter as a map
SOME_SEQS = st.lists(SEQS, max_size=4).map(tuple)
ENDS = st.lists(st.tuples(NAMES, SEQS), max_size=3).map(tuple)
LIMITS = st.none() | COUNTS
EDGES = st.builds(Edge, st.sampled_from(RELATIONSHIPS), IDS, LABELS)


RESOURCES = st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/*", "/**/b", "@x"]), min_size=1, max_size=3, unique=True).map(tuple)
CLAIMS = st.one_of(
    st.builds(state_view.Claim, RESOURCES, st.sampled_from(["exclusive", "shared"])),
    st.builds(state_view.Claim, RESOURCES, st.just("slots"), st.integers(1, 3)),
)


def _puts(dedupe: st.SearchStrategy[bytes | None], count: st.SearchStrategy[int]) -> st.SearchStrategy[UnitPut]:
    return st.builds(
        UnitPut,
        context=NAMES,
        agent=NAMES,
        id=IDS,
        type=st.sampled_from(TYPES),
        meta=LABELS,
        payload=PAYLOADS,
        relationships=st.lists(EDGES, max_size=3).map(tuple),
        dedupe=dedupe,
        dedupe_count=count,
        fences=st.lists(SEQS, max_size=2).map(tuple),
        size=st.none() | COUNTS,
    )


# The count belongs to the key: without one it is neither stored nor looked at.
PUTS = _puts(IDS, st.integers(1, 1000)) | _puts(st.none(), st.just(1))
EVENTS: dict[type, st.SearchStrategy[Event]] = {
    UnitPut: PUTS,
    contexts.ContextCreated: st.builds(contexts.ContextCreated, NAMES, NAMES, TEXTS, LABELS),
    contexts.ContextChanged: st.builds(
        contexts.ContextChanged, NAMES, NAMES, st.none() | TEXTS, st.dictionaries(NAMES, st.none() | TEXTS, max_size=3)
    ),
    contexts.AgentJoined: st.builds(contexts.AgentJoined, NAMES, NAMES, NAMES),
    contexts.AgentLeft: st.builds(contexts.AgentLeft, NAMES, NAMES, NAMES),
    contexts.UnitPinned: st.builds(contexts.UnitPinned, NAMES, NAMES, SEQS),
    contexts.UnitUnpinned: st.builds(contexts.UnitUnpinned, NAMES, NAMES, SEQS),
    contexts.UnitAdded: st.builds(contexts.UnitAdded, NAMES, NAMES, SEQS, NAMES, IDS),
    contexts.UnitRemoved: st.builds(contexts.UnitRemoved, NAMES, NAMES, SEQS, SEQS, NAMES),
    locks.LockGranted: st.builds(
        locks.LockGranted,
        agent=NAMES,
        resources=RESOURCES,
        mode=st.sampled_from(["exclusive", "shared", "slots"]),
        slots=st.integers(0, 5),
        ttl=TIMES,
        session=st.none() | NAMES,
        bound=st.booleans(),
        reason=TEXTS,
    ),
    locks.LockReleased: st.builds(locks.LockReleased, NAMES, SEQS, RESOURCES, TEXTS),
    locks.LockExpired: st.builds(locks.LockExpired, NAMES, SEQS, RESOURCES, st.integers(0, 9)),
    locks.LockStolen: st.builds(locks.LockStolen, NAMES, SEQS, RESOURCES, NAMES),
    presence.AgentPresent: st.builds(presence.AgentPresent, NAMES),
    presence.AgentsGone: st.builds(presence.AgentsGone, st.lists(NAMES).map(tuple), TIMES, st.booleans()),
    consumers.ConsumerCreated: st.builds(
        consumers.ConsumerCreated, NAMES, NAMES, st.lists(NAMES).map(tuple), WANTED, TEXTS, COUNTS, COUNTS, COUNTS
    ),
    consumers.ConsumerAcked: st.builds(consumers.ConsumerAcked, NAMES, SPANS, st.lists(SEQS).map(tuple)),
    consumers.ConsumerParked: st.builds(consumers.ConsumerParked, NAMES, SEQS, COUNTS),
    consumers.ConsumerRetried: st.builds(consumers.ConsumerRetried, NAMES, NAMES, st.lists(SEQS).map(tuple)),
    consumers.ConsumerReset: st.builds(consumers.ConsumerReset, NAMES, NAMES, COUNTS),
    consumers.ConsumerDeleted: st.builds(consumers.ConsumerDeleted, NAMES, NAMES),
    consumers.ConsumerMissed: st.builds(consumers.ConsumerMissed, NAMES, SOME_SEQS),
    retention.RetentionSet: st.builds(retention.RetentionSet, NAMES, NAMES, LIMITS, LIMITS, LIMITS),
    retention.UnitsTrimmed: st.builds(retention.UnitsTrimmed, NAMES, st.lists(st.tuples(SEQS, IDS)).map(tuple), SOME_SEQS),
    retention.EventsTrimmed: st.builds(retention.EventsTrimmed, SEQS, SOME_SEQS, ENDS, ENDS),
    redaction.UnitRedacted: st.builds(redaction.UnitRedacted, NAMES, NAMES, SEQS, IDS, TEXTS),
    redaction.ErasuresFinished: st.builds(redaction.ErasuresFinished, SOME_SEQS),
    restored.LogRestored: st.builds(restored.LogRestored, TEXTS, SEQS, SPANS),
    tokens.TokenIssued: st.builds(
        tokens.TokenIssued, NAMES, NAMES, NAMES, st.binary(max_size=32), *[st.lists(NAMES).map(tuple)] * 3, st.none() | TIMES, TEXTS
    ),
    tokens.TokenRevoked: st.builds(tokens.TokenRevoked, NAMES, NAMES),
}
