"""The session's state machine, walked by hand."""

import pytest

from tests.machine_run import AFTER, BEFORE, TRAIN, MachineRun, of, phases
from zprl.errors import ConfigError
from zprl.robot.base import StopLevel
from zprl.robot.limits import Recoveries
from zprl.session.events import (
    AskLabel,
    AskReset,
    BeginIntervention,
    CommitEpisode,
    Committed,
    CommittedEpisode,
    Died,
    Discard,
    EndEpisode,
    EndIntervention,
    EStop,
    Fault,
    Finish,
    GoHome,
    Homed,
    Input,
    InputEvent,
    Label,
    Labelled,
    Lost,
    Phase,
    Progress,
    Ready,
    Recover,
    Recovered,
    Restarted,
    Say,
    StartEpisode,
    State,
    Stop,
    Stopped,
    StoreLabel,
    Tick,
    TimeUp,
    VersionAvailable,
    WaitForWeights,
)
from zprl.session.state_machine import Machine

PLAN = phases(1, 2, 1)
TRAINING = phases(0, 2, 0)


class Walk(MachineRun):
    """A run that takes events as a function does."""

    def __init__(self, plan=TRAINING, progress=None, **options):
        super().__init__(Machine(plan, progress, **options))

    def __call__(self, event):
        return self.handle(event)


def test_one_episode_by_the_book():
    walk = Walk()
    assert walk.state is State.IDLE
    assert walk(Ready()) == [GoHome()]
    assert walk.state is State.HOMING
    assert walk(Homed()) == [AskReset(1, TRAIN, 0)]
    assert walk.state is State.AWAIT_RESET
    assert walk(Homed()) == []
    assert walk.press("reset_done", 1) == [StartEpisode(1, TRAINING[0], 0, None)]
    assert walk.state is State.RUNNING
    assert walk.press("success", 1, "k") == [EndEpisode(1)]
    assert walk.state is State.STOPPING
    line = StoreLabel(1, Label.SUCCESS, "test", "k")
    assert walk(Stopped(1)) == [CommitEpisode(1, line)]
    assert walk.state is State.COMMIT
    assert walk(Committed(1)) == [GoHome()]
    assert walk(Labelled(1, "k", 1)) == []
    assert walk.machine.episodes == {1: CommittedEpisode(1, TRAIN, 0, Label.SUCCESS)}


def test_a_plan_to_its_end():
    walk = Walk(PLAN)
    walk(Ready())
    walk.play("failure")
    walk.play("success")
    walk.play("failure")
    assert of(WaitForWeights, walk.to_reset()) == [
        WaitForWeights(3)
    ]  # the third line of the labels is the last of training
    assert walk.state is State.AWAIT_RESET
    assert walk(VersionAvailable(2)) == []
    assert walk(VersionAvailable(3)) == []
    assert walk.press("reset_done", 4) == [StartEpisode(4, PLAN[2], 0, 3)]
    walk.press("success", 4)
    assert of(Finish, walk.store(walk(Stopped(4)))) == [Finish()]
    assert walk.state is State.DONE
    starts = [(k.kind, k.start_number) for k in walk.machine.episodes.values()]
    assert starts == [
        (BEFORE, 0),
        (TRAIN, 0),
        (TRAIN, 1),
        (AFTER, 0),
    ]  # both evaluations see start 0


def test_sync_waits_for_the_learner_before_the_next_training_episode():
    walk = Walk(mode="sync")
    walk(Ready())
    walk.play()
    assert of(WaitForWeights, walk.to_reset()) == [WaitForWeights(1)]
    assert not of(StartEpisode, walk.press("reset_done", 2))
    assert "learner" in walk.machine.refused
    assert not of(
        StartEpisode, walk(VersionAvailable(1))
    )  # nothing moves because of a press of long ago
    assert of(StartEpisode, walk.press("reset_done", 2)) == [StartEpisode(2, TRAINING[0], 1, 1)]


def test_async_does_not_wait():
    walk = Walk()
    walk(Ready())
    walk.play()
    assert of(StartEpisode, walk.to_running()) == [StartEpisode(2, TRAINING[0], 1, None)]


def test_time_up_in_async_commits_and_asks_while_going_on():
    walk = Walk()
    walk.to_running()
    assert walk(TimeUp(1)) == [EndEpisode(1)]
    assert walk(Stopped(1)) == [CommitEpisode(1, None)]
    assert walk(Committed(1)) == [AskLabel(1), GoHome()]
    assert walk.machine.pending == [1]
    walk.play()
    assert walk.state is State.AWAIT_LABEL  # two played, one labelled: only the label is missing
    actions = walk.press("failure", 1)
    assert of(StoreLabel, actions) == [StoreLabel(1, Label.FAILURE, "test", f"press{walk.presses}")]
    assert of(Finish, walk.store(actions)) == [Finish()]


def test_time_up_in_sync_and_in_evaluation_waits_for_the_label():
    for walk in (Walk(mode="sync"), Walk(PLAN)):
        walk.to_running()
        walk(TimeUp(1))
        assert walk(Stopped(1)) == [AskLabel(1)]
        assert walk.state is State.AWAIT_LABEL
        assert of(CommitEpisode, walk.press("failure", 1))[0].label.label is Label.FAILURE


def test_the_driver_may_end_an_episode_by_itself():
    walk = Walk()
    walk.to_running()
    assert walk(Stopped(1)) == [CommitEpisode(1, None)]


def test_a_discarded_episode_is_repeated_from_the_same_start_under_a_new_number():
    walk = Walk()
    walk(Ready())
    walk.play()
    walk.to_running()
    walk.press("discard", 2)
    assert walk(Stopped(2)) == [Discard(2), GoHome()]
    assert of(StartEpisode, walk.to_running())[0] == StartEpisode(3, TRAINING[0], 1, None)


def test_a_pending_episode_that_is_discarded_is_repeated():
    walk = Walk()
    walk.to_running()
    walk.store(walk(Stopped(1)))
    walk.store(walk.press("discard", 1))
    assert walk.state is State.HOMING
    assert of(AskReset, walk(Homed())) == [AskReset(2, TRAIN, 0)]


def test_a_late_label_that_changes_what_comes_next_asks_for_the_scene_again():
    plan = (Phase(TRAIN, 1), Phase(AFTER, 1))
    walk = Walk(
        plan, Progress(episodes=(CommittedEpisode(1, TRAIN, 0, Label.DISCARD),), last_number=1)
    )
    walk(Ready())
    assert walk(Homed()) == [AskReset(2, TRAIN, 0)]
    actions = walk.press("failure", 1)  # it counts after all: training is over
    assert of(AskReset, actions) == [AskReset(2, AFTER, 0)]


def test_the_same_nonce_is_one_input():
    walk = Walk()
    walk(Ready())
    walk.play()
    first = walk.press("failure", 1, "same")
    assert of(StoreLabel, first)
    assert walk.press("failure", 1, "same") == []
    assert walk.press("success", 1, "same") == []
    assert walk.machine.episodes[1].label is Label.FAILURE


def test_a_double_click_is_no_second_line():
    walk = Walk()
    walk(Ready())
    walk.play("success")
    assert walk.press("success", 1) == []


def test_a_label_for_a_past_episode_corrects_that_one_only():
    walk = Walk(PLAN)
    walk(Ready())
    walk.play("success")
    walk.to_running()
    actions = walk.press("failure", 1)
    assert of(StoreLabel, actions)[0].episode == 1
    assert "was success" in of(Say, actions)[0].text
    assert walk.state is State.RUNNING
    assert walk.machine.open.label is None


def test_a_label_for_an_unknown_or_discarded_episode_is_refused_with_a_sentence():
    walk = Walk()
    walk.to_running()
    walk.press("discard", 1)
    walk(Stopped(1))
    assert "was discarded" in of(Say, walk.press("success", 1))[0].text
    assert "does not exist" in of(Say, walk.press("success", 7))[0].text
    assert "no episode" in of(Say, walk.press("success"))[0].text
    assert walk.machine.episodes == {}


def test_a_label_given_during_the_commit_follows_it():
    walk = Walk()
    walk.to_running()
    walk(Stopped(1))
    assert walk.press("failure", 1, "k") == []
    assert of(StoreLabel, walk(Committed(1))) == [StoreLabel(1, Label.FAILURE, "test", "k")]
    assert walk.machine.pending == []


def test_reset_done_of_another_episode_or_at_another_time_is_refused():
    walk = Walk()
    walk(Ready())
    assert of(Say, walk.press("reset_done", 1))
    walk(Homed())
    assert of(Say, walk.press("reset_done", 2))
    assert walk.state is State.AWAIT_RESET


def test_pause_lets_the_running_episode_end():
    walk = Walk()
    walk.to_running()
    assert of(Stop, walk.press("pause")) == []
    assert walk.state is State.RUNNING
    walk.press("success", 1)
    walk.store(walk(Stopped(1)))
    assert walk.state is State.PAUSED
    assert walk.press("resume") == [GoHome()]


def test_pause_interrupts_homing_and_forgets_the_reset():
    walk = Walk()
    walk(Ready())
    assert walk.press("pause") == [Stop(StopLevel.HOLD)]
    assert walk.state is State.PAUSED
    assert walk(Homed()) == []
    walk.press("resume")
    walk(Homed())
    walk.press("pause")
    assert walk.state is State.PAUSED
    assert walk.press("resume") == [GoHome()]


def to_fault(walk):
    walk.to_running()
    walk(Fault(StopLevel.SOFT, "reflex", False))


def to_stop(walk):
    walk.to_running()
    walk(EStop("pedal"))


def to_stopping(walk):
    walk.to_running()
    walk.press("success", 1)


@pytest.mark.parametrize(
    "lead",
    [
        lambda walk: None,
        lambda walk: walk(Ready()),
        Walk.to_running,
        to_stopping,
        to_fault,
        to_stop,
    ],
)
def test_pause_is_taken_in_every_state_and_no_episode_follows(lead):
    walk = Walk()
    lead(walk)
    actions = walk.press("pause")
    assert walk.machine.refused == ""
    assert walk.machine.paused
    assert not of(GoHome, actions) + of(StartEpisode, actions)
    while made := of(CommitEpisode, walk(Stopped(1))):
        walk.store(made)
    for event in (Ready(), Recovered(True), Homed(), Tick(1.0)):
        actions = walk(event)
        assert not of(GoHome, actions) + of(StartEpisode, actions)


def test_intervention():
    walk = Walk()
    walk.to_running()
    assert walk.press("intervene", 1) == [BeginIntervention(1)]
    assert walk.state is State.INTERVENTION
    assert walk.press("release", 1) == [EndIntervention(1)]
    walk.press("intervene", 1)
    assert walk.press("success", 1) == [EndEpisode(1)]
    assert of(Say, walk.press("intervene", 1))


def test_estop_is_latched_and_discards():
    walk = Walk()
    walk.to_running()
    actions = walk.press("estop", nonce="e")
    assert actions[0] == Stop(StopLevel.HARD)
    assert of(Discard, actions) == [Discard(1)]
    assert walk.state is State.ESTOP
    for event in (Homed(), Ready(), Recovered(True), Tick(1e9), Fault(StopLevel.SOFT, "more")):
        walk(event)
        assert walk.state is State.ESTOP
    walk.press("resume")
    assert walk.press("estop", nonce="e") == []  # latched: the plan says so again and again
    assert walk.press("clear") == [Recover()]
    assert walk.state is State.FAULT
    assert walk(Recovered(True)) == [GoHome()]
    assert walk.press("estop", nonce="e")[0] == Stop(StopLevel.HARD)  # a stop is never a repetition


def test_ten_thousand_stops_leave_nothing_behind():
    walk = Walk()
    walk.to_running()
    walk.press("estop")
    assert not any(walk.press("estop") for _ in range(10_000))
    assert len(walk.machine._nonces) < 10


def test_a_stop_that_is_pressed_again_makes_a_clear_for_the_first_one_old():
    walk = Walk()
    walk.to_running()
    walk.press("estop")
    seq = walk.machine.seq
    walk.press("estop")
    assert walk.machine.seq > seq
    assert walk.state is State.ESTOP


def test_a_refused_press_may_be_pressed_again():
    walk = Walk(mode="sync")
    walk(Ready())
    walk.play()
    walk.to_reset()
    assert not of(StartEpisode, walk.press("reset_done", 2, "same"))
    walk(VersionAvailable(1))
    assert of(StartEpisode, walk.press("reset_done", 2, "same"))


def test_only_a_person_may_let_a_held_arm_go_on():
    walk = Walk(confirm="confirm that the cell is clear")
    walk(Ready())
    assert walk.machine.held
    walk.press("clear")
    assert not walk.machine.held
    walk(Recovered(True))
    walk(Fault(StopLevel.SOFT, "a push", recoverable=True))
    assert not walk.machine.held
    walk.press("estop")
    assert walk.machine.held


def test_a_tighter_budget_of_recoveries_holds_at_once():
    walk = Walk(recoveries=Recoveries(count=3, window_s=600.0))
    walk(Ready())
    walk(Fault(StopLevel.SOFT, "a push", recoverable=True))
    walk(Recovered(True))
    walk.machine.tighten(Recoveries(count=1, window_s=600.0))
    assert not of(Recover, walk(Fault(StopLevel.SOFT, "a push", recoverable=True)))
    assert walk.machine.held


def test_nothing_moves_before_a_person_has_confirmed_the_cell():
    walk = Walk(confirm="confirm that the cell is clear")
    assert walk(Ready()) == []
    assert walk.state is State.FAULT
    assert walk.machine.reason == "confirm that the cell is clear"
    for event in (Tick(1e9), Homed(), Recovered(True)):
        assert walk(event) == []
    walk.press("resume")
    walk.press("reset_done", 1)
    assert walk.state is State.FAULT
    assert walk.press("clear") == [Recover()]
    assert walk(Recovered(True)) == [GoHome()]


def test_every_situation_has_a_number_of_its_own():
    walk = Walk()
    seen = [walk.machine.seq]
    for event in (
        Ready(),
        Homed(),
        InputEvent(Input.RESET_DONE, "a", "test", 1),
        TimeUp(1),
        Stopped(1),
        Committed(1),
    ):
        walk(event)
        assert walk.machine.seq > seen[-1]
        seen.append(walk.machine.seq)
    walk(Tick(5.0))
    assert walk.machine.seq == seen[-1]
    walk.press("pause")
    assert walk.machine.seq > seen[-1]


def test_after_a_stop_the_scene_is_put_in_order_again():
    walk = Walk(mode="sync")
    walk(Ready())
    walk.play()
    assert of(WaitForWeights, walk.to_reset())  # the weights are missing
    walk.press("estop")
    walk.press("clear")
    walk(Recovered(True))
    assert of(AskReset, walk(Homed())) == [AskReset(2, TRAIN, 1)]
    assert walk(VersionAvailable(1)) == []
    assert of(StartEpisode, walk.press("reset_done", 2))


def test_estop_noticed_by_the_driver():
    walk = Walk()
    walk(Ready())
    assert walk(EStop("pedal"))[0] == Stop(StopLevel.HARD)
    assert walk.state is State.ESTOP


def test_an_estop_after_the_episode_keeps_it():
    walk = Walk(PLAN)
    walk.to_running()
    walk(TimeUp(1))
    walk(Stopped(1))
    walk.press("estop")
    walk.press("success", 1)
    walk.press("clear")
    assert of(CommitEpisode, walk(Recovered(True)))[0].number == 1


def test_a_commit_goes_on_through_an_estop():
    walk = Walk()
    walk.to_running()
    walk(Stopped(1))
    walk.press("estop")
    walk(Committed(1))
    assert walk.state is State.ESTOP
    assert walk.machine.pending == [1]


def test_a_recoverable_fault_recovers_by_itself_and_repeats_the_episode():
    walk = Walk()
    walk.to_running()
    actions = walk(Fault(StopLevel.SOFT, "cartesian_reflex", recoverable=True))
    assert actions[0] == Stop(StopLevel.SOFT)
    assert of(Discard, actions) == [Discard(1)]
    assert of(Recover, actions) == [Recover()]
    assert walk(Recovered(True)) == [GoHome()]
    assert of(StartEpisode, walk.to_running()) == [StartEpisode(2, TRAINING[0], 0, None)]


def test_recoveries_are_bounded_by_the_injected_clock():
    walk = Walk(recoveries=Recoveries(count=1, window_s=10.0))
    walk(Ready())
    walk(Tick(100.0))
    assert of(Recover, walk(Fault(StopLevel.SOFT, "reflex", recoverable=True)))
    walk(Recovered(True))
    walk(Tick(109.0))
    assert not of(Recover, walk(Fault(StopLevel.SOFT, "reflex", recoverable=True)))
    assert walk.press("clear") == [Recover()]
    walk(Recovered(True))
    walk(Tick(110.0))
    assert of(Recover, walk(Fault(StopLevel.SOFT, "reflex", recoverable=True)))


def test_a_refused_recovery_and_a_fault_for_a_person_wait_for_clear():
    walk = Walk()
    walk(Ready())
    walk(Fault(StopLevel.SOFT, "reflex", recoverable=True))
    assert "did not recover" in of(Say, walk(Recovered(False, "user stop")))[0].text
    walk(Tick(1e6))
    assert walk.state is State.FAULT
    walk.press("clear")
    walk(Recovered(True))
    assert not of(Recover, walk(Fault(StopLevel.HARD, "user stop")))
    assert walk.state is State.FAULT


def test_an_interrupted_episode_may_be_labelled_where_the_session_wants_that():
    walk = Walk(interrupted="label")
    walk.to_running()
    assert not of(Discard, walk(Fault(StopLevel.SOFT, "reflex", recoverable=True)))
    assert of(CommitEpisode, walk(Recovered(True))) == [CommitEpisode(1, None)]


@pytest.mark.parametrize("process", ["actor", "driver", "recorder", "camera/wrist"])
def test_a_dead_process_interrupts_and_the_session_goes_on_when_it_is_back(process):
    walk = Walk()
    walk.to_running()
    actions = walk(Died(process))
    assert actions[0] == Stop(StopLevel.SOFT)
    assert of(Discard, actions) == [Discard(1)]
    assert walk(Died(process)) == []
    assert "waiting for" in of(Say, walk.press("clear"))[0].text
    actions = walk(Restarted(process))
    if process == "driver":
        assert actions == []
        actions = walk(Ready())
    assert of(Recover, actions) == [Recover()]
    assert walk(Recovered(True)) == [GoHome()]


@pytest.mark.parametrize("process", ["learner", "console"])
def test_a_dead_process_that_is_not_critical_stops_nothing(process):
    walk = Walk()
    walk.to_running()
    assert of(Stop, walk(Died(process))) == []
    assert walk.state is State.RUNNING


def test_a_recorder_that_dies_while_committing_says_afterwards_whether_it_did():
    for event, number in ((Committed(1), 2), (Lost(1), 2)):
        walk = Walk()
        walk.to_running()
        walk.press("success", 1, "k")
        walk(Stopped(1))
        walk(Died("recorder"))
        walk(Restarted("recorder"))
        walk(Recovered(True))
        assert walk.state is State.COMMIT
        actions = walk(event)
        if isinstance(event, Committed):
            assert walk.machine.episodes[1].label is Label.SUCCESS
        else:
            assert of(Discard, actions) == [Discard(1)]
        assert walk.machine.number == number
        assert walk.state is State.HOMING


def test_a_label_the_recorder_did_not_confirm_is_sent_again_when_it_is_back():
    walk = Walk()
    walk.to_running()
    walk.press("success", 1, "k")
    walk(Stopped(1))
    walk(Committed(1))
    walk(Died("recorder"))
    assert of(StoreLabel, walk(Restarted("recorder"))) == [
        StoreLabel(1, Label.SUCCESS, "test", "k")
    ]
    walk(Labelled(1, "k", 1))
    walk(Died("recorder"))
    assert of(StoreLabel, walk(Restarted("recorder"))) == []


def test_a_recorder_that_dies_before_the_label_has_lost_the_episode():
    walk = Walk(PLAN)
    walk.to_running()
    walk(Stopped(1))
    assert of(Discard, walk(Died("recorder"))) == [Discard(1)]
    assert walk.machine.open is None


def test_a_restarted_session_asks_for_what_is_pending_and_numbers_on():
    progress = Progress(
        episodes=(CommittedEpisode(1, TRAIN, 0, Label.SUCCESS), CommittedEpisode(3, TRAIN, 1)),
        last_number=5,
        training_labels=1,
        nonces=frozenset({"old"}),
    )
    walk = Walk((Phase(TRAIN, 3),), progress)
    assert walk(Ready()) == [AskLabel(3), GoHome()]
    assert walk.press("failure", 3, "old") == []  # came before the restart
    assert of(StoreLabel, walk.press("failure", 3))
    walk(Homed())
    assert of(StartEpisode, walk.press("reset_done", 6)) == [
        StartEpisode(6, Phase(TRAIN, 3), 2, None)
    ]


def test_a_restarted_session_knows_that_its_evaluation_has_begun():
    progress = Progress(
        episodes=(
            CommittedEpisode(1, TRAIN, 0, Label.SUCCESS),
            CommittedEpisode(2, AFTER, 0, Label.SUCCESS),
        ),
        last_number=2,
        training_labels=3,
        final=1,
    )
    plan = (Phase(TRAIN, 1), Phase(AFTER, 2))
    walk = Walk(plan, progress)
    walk(VersionAvailable(4))
    assert of(StartEpisode, walk.to_running()) == [
        StartEpisode(3, plan[1], 1, 1)
    ]  # the weights the first one was judged with


def test_a_finished_session_stays_finished_and_takes_corrections():
    walk = Walk(
        (Phase(TRAIN, 1),),
        Progress(episodes=(CommittedEpisode(1, TRAIN, 0, Label.SUCCESS),), last_number=1),
    )
    assert walk(Ready()) == [Finish()]
    assert of(StoreLabel, walk.press("failure", 1))


def test_a_latched_estop_survives_a_restart():
    walk = Walk(progress=Progress(estopped=True))
    assert walk(Ready()) == []
    assert walk.state is State.ESTOP
    assert walk.press("clear") == [Recover()]


@pytest.mark.parametrize(
    "plan",
    [
        (),
        (Phase(AFTER, 1), Phase(TRAIN, 1)),
        (Phase(TRAIN, 1), Phase(TRAIN, 1)),
        (Phase(TRAIN, -1),),
    ],
)
def test_an_impossible_plan_is_refused(plan):
    with pytest.raises(ConfigError):
        Machine(plan)
