"""What two sides have in common: which versions both have seen, and the base of a merge of the two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tai_state.conflicts.lineages import Lineage, Version, doubled_in, is_within
from tai_state.conflicts.machines import MachineMerge
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.resolvers import Causal, Resolver
from tai_state.conflicts.rivals import Rival
from tai_state.streams.layout import Stream
from tai_state.values.clocks import VectorClock, common, merge
from tai_state.values.states import JsonSnapshot, StateSnapshot, with_data

MERGES_MAX: Final = 256
"""How many versions are merged at most to find one base."""


class Bases:
    """Two sides' versions.

    A version that both sides have seen can be their base. Often there is one that includes all that both have seen.
    After joins with other stores there may be several, none of which includes the others. These are merged in their
    turn, against what they have in common, and so on.

    Args:
        here: the versions of one side.
        there: those of the other side.
        resolver: decides between the two sides. Its fields' strategies merge several bases into one.
    """

    def __init__(self, here: Lineage, there: Lineage, resolver: Resolver) -> None:
        self._here = here
        self._there = there
        self._resolver = resolver
        self._merges = 0

    async def read(self) -> None:
        """Read both streams back to an event that the other side has seen."""
        pairs = ((self._here, self._there), (self._there, self._here))
        for lineage, _ in pairs:
            if not lineage.is_whole:
                await lineage.read_more()
        while True:
            await self._tell_apart()
            apart = [
                lineage
                for lineage, other in pairs
                if not lineage.is_whole and not (lineage.oldest and _is_seen(lineage.oldest, other))
            ]
            if not apart:
                return
            for lineage in apart:
                await lineage.read_more()

    def is_seen(self, lineage: Lineage) -> bool:
        """Whether the other side has seen a side's present version."""
        other = self._there if lineage is self._here else self._here
        return lineage.head is None or _is_seen(lineage.head, other)

    def unseen(self, lineage: Lineage) -> list[Version]:
        """The versions of one side that the other side has not seen."""
        other = self._there if lineage is self._here else self._here
        return [each for each in lineage.versions.values() if not _is_seen(each, other)]

    async def base(self) -> Version | None:
        """The version that includes all that both sides have seen; None if they have nothing in common."""
        while True:
            version = await self._base()
            if not await self._tell_apart():
                return version

    async def _base(self) -> Version | None:
        """The base, by what was told apart so far; a merge may read on."""
        self._merges = 0
        return await self._with_requests(self._shared(), self._here.seen, self._there.seen)

    async def _tell_apart(self) -> bool:
        """Tell events apart that were counted alike, before and after a store was restored from a backup.

        Which of them a version includes, whole streams show. They are also read if a join told an event from another
        one that was not read.

        Returns:
            Whether there are more of them than before.
        """
        sides = (self._here, self._there)
        is_new = False
        while True:
            doubled = doubled_in([*self._here.versions.values(), *self._there.versions.values()])
            told = [each.tell_apart(doubled) for each in sides]
            is_partial = not all(each.is_whole for each in sides)
            if not any(told) and not (is_partial and any(each.told - doubled.keys() for each in sides)):
                break
            is_new = True
            for lineage in sides:
                while not lineage.is_whole:
                    await lineage.read_more()
        return is_new

    def _shared(self) -> list[Version]:
        """The versions that both sides have seen, as far as the streams were read."""
        shared: dict[object, Version] = {}
        for lineage, other in ((self._here, self._there), (self._there, self._here)):
            for key, version in lineage.versions.items():
                if _is_seen(version, other):
                    shared.setdefault(key, version)
        return list(shared.values())

    async def _with_requests(self, shared: Iterable[Version], one: VectorClock, other: VectorClock) -> Version | None:
        """One version that includes these, which are in both clocks, and what was requested in both under one id."""
        version = await self._merged(_newest(shared))
        if version is None:
            return None
        for request in self._requests(one, other):
            before = await self._merged(_newest(self._before(request)))
            version = await self._merge(version, request, before)
        return version

    def _requests(self, one: VectorClock, other: VectorClock) -> list[Version]:
        """The changes that two clocks include and that were requested apart under one event id: they count once.

        If both include the same event of a request, it is in what they have in common.
        """
        by_id: dict[str, list[Version]] = {}
        for each in self._every():
            if each.store:
                by_id.setdefault(each.event_id, []).append(each)
        found: list[Version] = []
        for group in by_id.values():
            places = {(is_within(each.seen, one), is_within(each.seen, other)) for each in group if len(group) > 1}
            if {(True, False), (False, True)} <= places and (True, True) not in places:
                apart = [each for each in group if is_within(each.seen, one) or is_within(each.seen, other)]
                found.append(min(apart, key=lambda each: each.key))
        return sorted(found, key=lambda each: (each.hlc, each.key))

    def _before(self, version: Version) -> list[Version]:
        """The versions that a version includes, without itself."""
        return [each for each in self._every() if is_within(each.seen, version.seen) and each.seen != version.seen]

    def _every(self) -> Iterable[Version]:
        return {**self._here.versions, **self._there.versions}.values()

    async def _merged(self, versions: list[Version]) -> Version | None:
        """One version that includes all of these; None for none."""
        if not versions:
            return None
        whole, *others = versions
        for other in others:
            if is_within(other.seen, whole.seen) or self._merges >= MERGES_MAX:
                continue
            self._merges += 1
            parted = common(whole.seen, other.seen)
            for lineage in (self._here, self._there):
                await lineage.read_back_to(parted)
            shared = [each for each in self._shared() if is_within(each.seen, parted)]
            base = await self._with_requests(shared, whole.seen, other.seen)
            whole = await self._merge(whole, other, base)
        return whole

    async def _merge(self, one: Version, other: Version, base: Version | None) -> Version:
        stream = self._here.side.stream
        before = None if base is None else await base.data()
        earlier, later = await _rival(stream, one), await _rival(stream, other)
        data = _field_merge(self._resolver, earlier, later).resolve(earlier, later, before).data

        async def merged() -> dict[str, object] | None:
            return data

        return Version(
            event_id="",
            clock=merge(one.clock, other.clock),
            seen=merge(one.seen, other.seen),
            hlc=max(one.hlc, other.hlc) + 1,
            store="",
            data=merged,
        )


def _is_seen(version: Version, other: Lineage) -> bool:
    """Whether a side has seen a version: it names the version, or includes all that the version does."""
    return version.key in other.versions or is_within(version.seen, other.seen)


def _newest(versions: Iterable[Version]) -> list[Version]:
    """The versions that no other one includes; of versions that include the same, one."""
    newest: list[Version] = []
    for version in sorted(versions, key=lambda each: (-sum(each.seen.values()), -each.hlc, each.key)):
        if not any(is_within(version.seen, each.seen) for each in newest):
            newest.append(version)
    return newest


def _field_merge(resolver: Resolver, one: Rival, other: Rival) -> FieldMerge:
    """What merges two versions of a base field by field. No rule of a machine is asked: a base only compares."""
    while True:
        if isinstance(resolver, Causal) and resolver.fallback is not None:
            resolver = resolver.fallback
        elif isinstance(resolver, MachineMerge):
            resolver = resolver.chosen(one, other)
        else:
            break
    return resolver if isinstance(resolver, FieldMerge) else FieldMerge()


async def _rival(stream: Stream, version: Version) -> Rival:
    unsaved: JsonSnapshot = StateSnapshot.unsaved(stream.governor_id, stream.state_id, {})
    snapshot = msgspec.structs.replace(with_data(unsaved, await version.data()), causality=version.seen)
    return Rival(snapshot=snapshot, hlc=version.hlc, tip=version.event_id)
