"""The heart: wait, look for births, tick when it is due, act, tell. Nothing here waits for anybody."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ollama_guard.core.events import Event, Priority
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.ledger import with_rows
from ollama_guard.core.model import (
    Action,
    ActionKind,
    ApiReading,
    Decision,
    Level,
    Outcome,
    OutcomeKind,
    Request,
    ServerReading,
)
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import clock
from ollama_guard.sentinel.answers import Answers
from ollama_guard.sentinel.mind import Told
from ollama_guard.sentinel.outfit import Outfit
from ollama_guard.sentinel.reload import Reload
from ollama_guard.sentinel.reporting import Reporting
from ollama_guard.sentinel.sensors.identity import SCAN_LOST_SECONDS
from ollama_guard.sentinel.stillness import ASLEEP, Stillness
from ollama_guard.sentinel.supervise import Hands
from ollama_guard.sentinel.whence import whence
from ollama_guard.wire import (
    ActionPosted,
    ApiObserved,
    CatalogueObserved,
    FootprintsLearned,
    FootprintsObserved,
    Message,
    OutcomeReported,
    PolicyPosted,
    PollWanted,
    RequestPosted,
    RuntimesObserved,
    SceneWanted,
    ServersTold,
    StoreObserved,
    TraceWanted,
)

# Seconds between two looks for newborn runners: a load passes 30 % of its size within half a second. Waking
# up costs as much as the look itself (0.1 ms each), so it is as seldom as that allows while calm.
BIRTHS_SECONDS = 0.24
BIRTHS_ALERT_SECONDS = 0.1
# And while a playbook runs: clients may ask for what it hides all the time, and none is to get memory (a
# runner takes 1.5 GiB/s at the fastest seen).
BIRTHS_RECOVERY_SECONDS = 0.03
# The same while there is no server, so that nothing can be born: as often as one is looked for (seconds).
SERVERLESS_SECONDS = SCAN_LOST_SECONDS
# Two ticks are at least this far apart (seconds), whoever asks for the next one.
SHORTEST_TICK_SECONDS = 0.01
# A failing tick is tried again after this long, doubling (seconds).
FAIL_FIRST_SECONDS = 0.1
FAIL_LONGEST_SECONDS = 5.0
# While memory is short, hands are asked to poll at this interval (seconds).
PRESSED_POLL_SECONDS = 1.0
# Wishes that wait for their tick; more are refused.
REQUESTS_LIMIT = 64


class Loop:
    """One guard's life between start and stop."""

    def __init__(self, outfit: Outfit) -> None:
        self.outfit = outfit
        self.told = Told()
        self.hands = Hands(outfit.poller, outfit.hands_plan, self._on_message)
        self.reload = Reload(outfit.poller, outfit.compile_argv, self._on_compiled)
        self.reporting = Reporting(outfit, self.hands)
        self.answers = Answers(self._reply)
        self._stillness = Stillness()
        self._requests: deque[Request] = deque()
        self._stopping = ""
        self._wanted = True
        self._tick_at = self._births_at = self._ticked_at = 0.0
        self._glance_at = math.inf
        self._fail_seconds = FAIL_FIRST_SECONDS
        self._polled_at = 0.0
        self._pressed = False
        self._runners: frozenset[tuple[int, int]] = frozenset()
        self._servers: tuple[ServerReading, ...] | None = None
        outfit.poller.add(outfit.signals.fileno(), lambda _: self._on_signals())

    def run(self) -> None:
        """Guard until a signal says otherwise. One part that breaks does not stop the others."""
        guard = partial(self._stillness.timed, "guarding", self._guard)
        company = partial(self._stillness.timed, "keeping company", self._keep_company)
        while not self._stopping:
            for part in (self._wait, guard, company):
                try:
                    part()
                except Exception:  # noqa: BLE001 - the one broad except: the guard outlives its own mistakes
                    self._failed(ticking=part is guard)
        self.outfit.say_goodbye(f"{self._stopping} received")
        self.outfit.mind.recorder.flush()
        self.hands.stop()
        self.reload.stop()

    def _wait(self) -> None:
        """Sleep until something is due or somebody speaks."""
        seconds = self._sleep_seconds()
        self._stillness.timed(ASLEEP, lambda: self.outfit.poller.wait(seconds), seconds)

    def _guard(self) -> None:
        """Take in what has ended, look for births and at memory, tick if it is due."""
        now = clock.boottime()
        for outcome in self.outfit.reflexes.collect(now):
            self._ended(outcome)
        if now >= min(self._births_at, self._glance_at):
            self._births_at = now + self._births_seconds()
            self._wanted |= self.outfit.senses.births(now, recovering=self._recovering)
            if self._births_at > self._glance_at:  # the next look would be too late for it
                self._plan_glance(now, glancing=True)
        if now >= self._tick_at or (self._wanted and now - self._ticked_at >= SHORTEST_TICK_SECONDS):
            self._tick(now)

    def _keep_company(self) -> None:
        """Look after hands, a compiler at work, and what the log still holds back."""
        now = clock.boottime()
        self._look_after_hands(now)
        self.reload.keep(now)
        self.outfit.journal.flush(now, clock.wall())

    def _tick(self, now: float) -> None:
        """Sense, decide, act, tell; only a tick that gets to its end feeds the watchdog."""
        mind = self.outfit.mind
        self._wanted = False
        self._ticked_at = now
        self._tick_at = now + self._fail_seconds
        requests = (self._requests.popleft(),) if self._requests else ()
        decision, wavered = mind.think(self.told, requests)
        self.outfit.keep_state()  # what people are answered, and a posted step of a playbook, survive us
        self.answers.decided(decision)
        if not decision.would:
            for action in decision.actions:
                self._act(action)
        told = self._stillness.told((*wavered, *mind.narrate(decision)))
        self.outfit.tell(*told)
        self._alert(told)
        assert mind.snapshot is not None
        self.outfit.tell(*self.outfit.trials.follow(mind.snapshot))
        self.outfit.tell(*self.outfit.expendables.follow(mind.policy, mind.state.durable, mind.snapshot))
        if lessons := mind.learn():
            self.hands.send(FootprintsLearned(lessons))
        self._ask_for_polls(decision, now)
        self._tell_servers()
        self.outfit.keep_state()
        self.outfit.follow_sensors(self._on_sensor)
        self.reporting.after_tick(now)
        self._fail_seconds = FAIL_FIRST_SECONDS
        self._wanted |= bool(self._requests)
        self._tick_at = now + mind.delay_seconds()
        self._births_at = now + self._births_seconds()
        self._plan_glance(now, glancing=False)

    def _alert(self, told: Sequence[Event]) -> None:
        """Have hands tell a person what the log was just told, where the owner wants that."""
        if self.outfit.mind.policy.notify.webhook:
            self.outfit.notices.add(told, clock.wall())
            if self.hands.alive:
                self.outfit.notices.pass_on(self.hands.send)

    def _plan_glance(self, now: float, *, glancing: bool) -> None:
        """When to glance again, by a glance now or by what the tick that has just ended saw."""
        self._glance_at = math.inf  # whatever breaks here or in the tick: a tick has to come first then
        seconds = self.outfit.mind.look_seconds(now, glancing=glancing)
        if seconds > 0:
            self._glance_at = now + seconds
        else:
            self._wanted = True

    def _act(self, action: Action) -> None:
        """Carry an action out, or hand it on; its outcome comes later, or now if it can't be done."""
        now, snapshot = clock.boottime(), self.outfit.mind.snapshot
        assert snapshot is not None
        runner = next((r for r in snapshot.runners if r.key == action.key), None)
        outcome: Outcome | None
        if action.kind is ActionKind.KILL:
            outcome = self.outfit.reflexes.kill(action, runner, now)
        elif action.kind is ActionKind.KILL_SERVER:
            server = next((s for s in snapshot.servers if (s.pid, s.start_ticks) == action.key), None)
            outcome = self.outfit.reflexes.kill_server(action, server, snapshot.runners, now)
        else:
            outcome = self.outfit.reflexes.watch(action, runner, now)
            if outcome is None and not self.hands.send(ActionPosted(action)):
                lost = Outcome(action.id, OutcomeKind.FAILED, now, detail="hands could not be told")
                outcome = self.outfit.reflexes.reported(lost)
        if outcome is not None:
            self._ended(outcome)

    def _ended(self, outcome: Outcome) -> None:
        self.outfit.mind.absorb(outcome)
        self.answers.ended(outcome)
        self._wanted = True

    def _on_message(self, message: Message) -> None:
        match message:
            case ApiObserved():
                old, self.told.api = self.told.api, message.api
                if _same_news(old, message.api):  # the next tick that is due anyway is early enough
                    return
            case CatalogueObserved():
                self.told.catalogue = message.entries
            case FootprintsObserved():
                kept = Ledger() if message.anew else self.told.footprints
                kept = replace(kept, at=message.at, watched_seconds=message.watched_seconds)
                self.told.footprints = with_rows(kept, message.rows)
                return
            case RuntimesObserved():
                self.told.runtimes = message.runtimes
            case StoreObserved():
                self.told.store = message.store
            case RequestPosted() if len(self._requests) < REQUESTS_LIMIT:
                self._requests.append(message.request)
            case OutcomeReported():
                outcome = self.outfit.reflexes.reported(message.outcome)
                if outcome is not None:
                    self._ended(outcome)
            case SceneWanted(scene_id):
                self.reporting.show_scene(scene_id)
                return
            case TraceWanted():
                self.outfit.mind.recorder.wanted(message, self.hands.send)
                return
            case _:
                return
        self._wanted = True

    def _look_after_hands(self, now: float) -> None:
        died = self.hands.keep(now, self.outfit.mind.policy)
        self._wanted |= self.told.alive is not self.hands.alive
        self.told.alive, self.told.reason = self.hands.alive, self.hands.reason
        if not died:
            return
        self.answers.forget()
        self.outfit.mind.recorder.stop()
        self._requests.clear()
        self._servers = None
        self._pressed, self._runners = False, frozenset()  # the next hands have heard nothing yet
        for outcome in self.outfit.reflexes.abandon("hands died", now):
            self._ended(outcome)
        self.outfit.tell(Event("hands.restarted", died, Priority.WARNING))

    def _ask_for_polls(self, decision: Decision, now: float) -> None:
        """Births and deaths of runners make `/api/ps` worth a look; so does shortness, once a second."""
        snapshot = self.outfit.mind.snapshot
        runners = frozenset(runner.key for runner in snapshot.runners) if snapshot else frozenset()
        pressed = decision.level >= Level.SOFT
        if runners != self._runners:
            reason = "a runner was born" if runners - self._runners else "a runner died"
        elif pressed != self._pressed or (pressed and now - self._polled_at >= PRESSED_POLL_SECONDS):
            reason = f"memory is at {decision.level.word}"
        else:
            return
        if self.hands.send(PollWanted(reason, pressed)):
            self._runners, self._polled_at, self._pressed = runners, now, pressed

    def _tell_servers(self) -> None:
        """Hands find out how each server is run: they are told which there are, whenever that changes."""
        snapshot = self.outfit.mind.snapshot
        servers = tuple(replace(s, process_state="?") for s in snapshot.servers) if snapshot else ()
        if servers != self._servers and self.hands.send(ServersTold(servers)):
            self._servers = servers

    def _on_sensor(self, fd: int, events: int) -> None:
        self.outfit.senses.on_ready(fd, events)
        # What made it ready is taken by a look; until then it would be ready again at once.
        self._births_at = 0.0
        self._wanted = True

    def _on_signals(self) -> None:
        for number in self.outfit.signals.take():
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = signal.Signals(number).name
            elif number == signal.SIGHUP:
                self.outfit.notifier.reloading(time.monotonic())
                self.reload.start(clock.boottime())
            elif number == signal.SIGUSR1:
                self.outfit.tell(self.reporting.report())

    def _on_compiled(self, policy: Policy | None, problems: list[str]) -> None:
        if policy is None:
            text = f"the old configuration stays in force: {'; '.join(problems)}"
            self.outfit.tell(Event("config.rejected", text, Priority.ERROR, {"problems": len(problems)}))
        else:
            self.outfit.adopt(policy)
            self.hands.send(PolicyPosted(self.outfit.mind.policy))
            text = f"the configuration was read again from {self.outfit.config or 'the usual place'}"
            self.outfit.tell(
                Event("config.reloaded", text, Priority.NOTICE),
                *(Event("guard.warned", problem, Priority.WARNING) for problem in problems),
            )
            self._wanted = True
        self.outfit.notifier.ready()

    def _reply(self, replied: Message) -> None:
        self.hands.send(replied)

    def _births_seconds(self) -> float:
        state = self.outfit.mind.state
        if self._recovering:
            return BIRTHS_RECOVERY_SECONDS
        if not (state.servers or state.runners):
            return SERVERLESS_SECONDS
        calm = state.level is Level.OK and not state.in_flight
        return BIRTHS_SECONDS if calm else BIRTHS_ALERT_SECONDS

    @property
    def _recovering(self) -> bool:
        return self.outfit.mind.state.durable.playbook is not None

    def _sleep_seconds(self) -> float:
        now = clock.boottime()
        if self._wanted:
            return max(0.0, self._ticked_at + SHORTEST_TICK_SECONDS - now)
        others = (self.outfit.reflexes.next_deadline_at(), self.reload.next_look_at())
        due = (
            self._tick_at,
            self._births_at,
            self._glance_at,
            self.hands.next_look_at(now),
            *(o for o in others if o is not None),
        )
        return min(due) - now

    def _failed(self, *, ticking: bool) -> None:
        """Something broke: say so on one line; a broken tick is tried again less and less often."""
        error = sys.exc_info()[1]
        again = f"a tick failed, trying again in {self._fail_seconds:.1f} s" if ticking else "a part failed"
        if ticking:
            self._tick_at = self._ticked_at = clock.boottime() + self._fail_seconds
            self._wanted = False
            self._fail_seconds = min(self._fail_seconds * 2, FAIL_LONGEST_SECONDS)
        self.outfit.tell(Event("guard.warned", f"{again}: {error!r} in {whence(error)}", Priority.ERROR))
        # A descriptor whose handler breaks is ready again at once: don't spin on it.
        time.sleep(SHORTEST_TICK_SECONDS)


def _same_news(old: ApiReading, new: ApiReading) -> bool:
    """Whether an observation differs from the last in its times only."""
    return (old.error, old.version, old.loaded_error) == (new.error, new.version, new.loaded_error) and {
        (model.name, model.blob) for model in old.loaded
    } == {(model.name, model.blob) for model in new.loaded}
