"""Little films whose every event is known to the frame: BabyAI missions, solved and rendered.

In a MiniGrid room with objects and doors the BabyAI bot carries out missions one after another: it
carries an object next to another, keeps a door open for a while, or waits at an object. Beside the
room stands, enlarged, what it carries and what it stands before. The intervals are read off the
states of the world, not off the plan, and an episode in which the bot had to do something else on
the way is thrown away.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from tgvlm_jax.types import InputError

FPS = 4  # actions, and so frames, a second
SIDE, TILE = 6, 16  # of the room in tiles, of a tile in pixels
COLORS = ("blue", "green", "red", "yellow")
OBJECTS = ("ball", "box", "key")
ACTIONS = ("carry", "open", "wait")
KINDS = (*ACTIONS, "walk")
_DOORS, _THINGS = 3, 4
_TRIES = 400
_LONGEST_WALK = 40
_EVENT = (4, 12)  # frames, 1 to 3 s
_LENGTH = (28, 60)  # frames of an episode, 7 to 15 s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One thing the agent does.

    Attributes:
        kind: of `KINDS`. target: color and object, such as "red ball".
        start, end: seconds, [start, end).
    """

    kind: str
    target: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """A rendered film and what happens in it, in the order of time.

    Attributes:
        layout: the first state of the world, as a string that is equal for equal rooms.
        missions: the sentences the agent was given.
    """

    frames: UInt8[np.ndarray, "f y x 3"]
    layout: str
    missions: tuple[str, ...]
    events: tuple[Event, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.frames) / FPS


class _Detour(Exception):
    """The bot did something that was not asked for; the episode is thrown away."""


def check_installed() -> None:
    """Raises InputError where MiniGrid is not installed."""
    try:
        import minigrid  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'tgvlm games needs MiniGrid ({error}); install it: pip install "tgvlm_jax[games]"'
        ) from error


def episode(seed: int | Sequence[int]) -> Episode:
    """The episode of a seed: 3 or 4 missions, 7 to 15 seconds.

    At least two of them are of the same kind, with other objects, and none comes twice.

    Raises:
        InputError: MiniGrid is not installed.
    """
    check_installed()
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        try:
            return _Play(rng).run()
        # The bot says by a failed assertion that it has lost its way.
        except (_Detour, AssertionError):
            continue
    raise RuntimeError(f"no episode for seed {seed} in {_TRIES} tries")


@functools.cache
def _room_class() -> Any:
    """The class of the room; made when it is needed, for MiniGrid is an extra."""
    from minigrid.core.grid import Grid
    from minigrid.core.mission import MissionSpace
    from minigrid.core.world_object import WorldObj
    from minigrid.minigrid_env import MiniGridEnv

    class Room(MiniGridEnv):
        """Walls around, doors in them, objects and an agent inside."""

        def __init__(self, rng: np.random.Generator):
            self._rng = rng
            space = MissionSpace(mission_func=lambda: "")
            super().__init__(space, width=SIDE, height=SIDE, max_steps=10**6)

        def _gen_grid(self, width: int, height: int) -> None:
            self.grid = Grid(width, height)
            self.grid.wall_rect(0, 0, width, height)
            _furnish(self, self._rng)

        def room_from_pos(self, *cell: Any) -> None:
            """Asked for by BabyAI's descriptions, which here never name a place."""

        def named(self) -> dict[str, WorldObj]:
            """Everything there is, by color and kind."""
            found = [cell for cell in self.grid.grid if cell and cell.type != "wall"]
            return {f"{one.color} {one.type}": one for one in found}

        def gen_obs(self) -> dict[str, Any]:
            """What the agent sees: nobody asks, and it would take most of the time."""
            return {}

        def gen_obs_grid(self, agent_view_size: int | None = None) -> tuple[Grid, np.ndarray]:
            """What is new to the bot: nothing, it knows the whole room."""
            return self.grid, np.zeros((self.agent_view_size, self.agent_view_size), bool)

    return Room


def _furnish(room: Any, rng: np.random.Generator) -> None:
    """Puts doors into the walls, objects and the agent inside."""
    from minigrid.core.world_object import Ball, Box, Door, Key

    inside = [(x, y) for x in range(1, SIDE - 1) for y in range(1, SIDE - 1)]
    walls = [(x, y) for x in range(1, SIDE - 1) for y in (0, SIDE - 1)]
    walls += [(y, x) for x, y in walls]
    doors = rng.permutation(walls)[:_DOORS]
    colors = rng.choice(COLORS, _DOORS, replace=False).tolist()
    for (x, y), color in zip(doors.tolist(), colors, strict=True):
        room.put_obj(Door(color), x, y)
    # Nothing stands in front of a door, so that nothing need be moved away.
    free = [cell for cell in inside if np.abs(doors - cell).sum(axis=1).min() > 1]
    cells = rng.permutation(free).tolist()
    names = [(kind, color) for kind in (Ball, Box, Key) for color in COLORS]
    chosen = rng.choice(len(names), _THINGS, replace=False)
    for (x, y), number in zip(cells, chosen, strict=False):
        kind, color = names[number]
        room.put_obj(kind(color), x, y)
    column, row = cells[len(chosen)]
    room.agent_pos = (column, row)
    for direction in rng.permutation(4).tolist():  # at first it faces nothing, if it can
        room.agent_dir = direction
        ahead = room.grid.get(*room.front_pos)
        if ahead is None or ahead.type == "wall":
            break


def _picture(room: Any) -> UInt8[np.ndarray, "y x 3"]:
    """The room from above; right of it, twice as large, what is carried and what is ahead."""
    tile = room.grid.render_tile
    agent = room.agent_pos[1] * SIDE + room.agent_pos[0]
    cells = [
        tile(cell, tile_size=TILE, agent_dir=room.agent_dir if place == agent else None)
        for place, cell in enumerate(room.grid.grid)
    ]
    rows = np.stack(cells).astype(np.uint8).reshape(SIDE, SIDE, TILE, TILE, 3)
    ahead = room.grid.get(*room.front_pos)
    shown = (room.carrying, None if ahead and ahead.type == "wall" else ahead, None)
    panel = [tile(thing, tile_size=2 * TILE).astype(np.uint8) for thing in shown]
    seen = rows.transpose(0, 2, 1, 3, 4).reshape(SIDE * TILE, SIDE * TILE, 3)
    return np.concatenate([seen, np.concatenate(panel)], axis=1)


@dataclasses.dataclass(frozen=True)
class _State:
    """What of the world matters for events, at one frame."""

    carried: str | None
    opened: frozenset[str]


class _Play:
    """One try at an episode."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._room = _room_class()(rng)
        self._room.reset()
        self._frames: list[np.ndarray] = []
        self._states: list[_State] = []
        self._missions: list[str] = []
        self._events: list[Event] = []

    def run(self) -> Episode:
        layout = self._room.hash(size=32)
        plan = self._plan()
        self._look()
        self._rest(0, 7)
        for kind, target in plan:
            getattr(self, f"_{kind}")(target)
            self._rest(0, 4)
        self._rest(0, 5)
        if not _LENGTH[0] <= len(self._frames) <= _LENGTH[1]:
            raise _Detour
        return Episode(
            frames=np.stack(self._frames),
            layout=layout,
            missions=tuple(self._missions),
            events=tuple(sorted(self._events, key=lambda one: one.start)),
        )

    def _plan(self) -> list[tuple[str, str]]:
        """Kinds and targets, in the order in which they come."""
        rng, names = self._rng, sorted(self._room.named())
        first, second = rng.choice(ACTIONS, 2, replace=False).tolist()
        counts = ((3, 0), (2, 1), (2, 2))[int(rng.integers(3))]
        plan = []
        for kind, count in zip((first, second), counts, strict=True):
            fitting = [name for name in names if name.endswith("door") == (kind == "open")]
            plan += [(kind, str(name)) for name in rng.choice(fitting, count, replace=False)]
        return [plan[number] for number in rng.permutation(len(plan))]

    # ------------------------------------------------------------------ one mission each

    def _carry(self, target: str) -> None:
        from minigrid.envs.babyai.core.verifier import PutNextInstr

        others = [name for name in sorted(self._room.named()) if name != target]
        goal = str(self._rng.choice([name for name in others if not name.endswith("door")]))
        first = len(self._states) - 1
        self._solve(
            PutNextInstr(_described(target), _described(goal)),
            carries=int(self._rng.integers(*_EVENT)),
        )
        carried = [one.carried for one in self._states]
        begin = next(i for i in range(first, len(carried)) if carried[i])
        if set(carried[begin:-1]) != {target} or carried[-1] is not None:
            raise _Detour
        self._note("walk", target, first, begin)
        self._note("carry", target, begin, len(carried) - 1)

    def _open(self, target: str) -> None:
        from minigrid.envs.babyai.core.verifier import OpenInstr

        first = len(self._states) - 1
        self._solve(OpenInstr(_described(target)))
        begin = len(self._states) - 1
        if self._states[begin].opened != {target}:
            raise _Detour
        self._rest(_EVENT[0] - 1, _EVENT[1] - 1)
        self._act(self._room.actions.toggle)
        self._note("walk", target, first, begin)
        self._note("open", target, begin, len(self._states) - 1)

    def _wait(self, target: str) -> None:
        from minigrid.envs.babyai.core.verifier import GoToInstr

        first = len(self._states) - 1
        self._solve(GoToInstr(_described(target)))
        begin = len(self._states) - 1
        if begin == first:
            raise _Detour  # it was there already, and nobody sees when the wait begins
        self._rest(_EVENT[0] - 1, _EVENT[1] - 1)
        self._note("walk", target, first, begin)
        self._note("wait", target, begin, len(self._states))

    def _note(self, kind: str, target: str, first: int, stop: int) -> None:
        """Records frames [first, stop) as an event; a walk may be too short to be one."""
        if stop - first < _EVENT[0]:
            if kind == "walk":
                return
            raise _Detour
        self._events.append(Event(kind=kind, target=target, start=first / FPS, end=stop / FPS))

    # ------------------------------------------------------------------------- the world

    def _solve(self, instruction: Any, *, carries: int = 0) -> None:
        """Lets the bot carry out an instruction; it lingers till it has carried for some frames."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        room = self._room
        instruction.reset_verifier(room)
        room.instrs = instruction
        self._missions.append(instruction.surface(room))
        bot = BabyAIBot(room)
        bot.vis_mask[:] = True  # the camera sees the whole room, and so does the bot
        start = len(self._states)
        for _ in range(_LONGEST_WALK):
            action = bot.replan()
            if action == room.actions.done:
                break
            if action == room.actions.drop:
                held = sum(one.carried is not None for one in self._states[start:])
                self._rest(max(0, carries - held), max(0, carries - held) + 1)
            self._act(action)
        else:
            raise _Detour
        if not carries and any(one.carried for one in self._states[start:]):
            raise _Detour  # something was in the way

    def _rest(self, least: int, most: int) -> None:
        """Stands still for [least, most) frames."""
        for _ in range(int(self._rng.integers(least, most))):
            self._act(self._room.actions.done)

    def _act(self, action: Any) -> None:
        self._room.step(action)
        self._look()

    def _look(self) -> None:
        carried = self._room.carrying
        opened = (name for name, one in self._room.named().items() if getattr(one, "is_open", 0))
        self._frames.append(_picture(self._room))
        self._states.append(
            _State(f"{carried.color} {carried.type}" if carried else None, frozenset(opened))
        )


def _described(name: str) -> Any:
    from minigrid.envs.babyai.core.verifier import ObjDesc

    color, kind = name.split()
    return ObjDesc(kind, color)
