use super::*;
use std::os::fd::AsFd;

/// Returns the line that each signal prints, and the state after them. The times are in milliseconds.
fn said(
    on_signal: OnSignal,
    deadline: Option<u64>,
    signals: &[(u64, &'static str)],
) -> (Vec<Option<String>>, State) {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let deadline = deadline.map(|millis| (at(millis), Cause::Deadline(Duration::from_millis(millis), "--timeout")));
    let mut state = State { on_signal, deadline, ..State::default() };
    let said = signals.iter().map(|(millis, name)| state.note_signal(name, at(*millis))).collect();
    (said, state)
}

#[test]
fn signals_within_two_seconds_of_the_first_are_one() {
    for gap in [0, 1, 10, 200, 1_999] {
        let (said, state) = said(OnSignal::CancelRun, None, &[(0, "SIGTERM"), (gap, "SIGHUP")]);
        assert!(said[0].as_ref().unwrap().starts_with("SIGTERM: cancelling"), "{said:?}");
        assert_eq!(said[1], None, "{gap} ms");
        assert_eq!((state.cause, state.later_signal), (Some(Cause::Signal("SIGTERM")), None));
    }
}

#[test]
fn a_signal_two_seconds_after_the_first_is_a_later_one() {
    let signals = [(0, "SIGINT"), (1_500, "SIGINT"), (2_000, "SIGTERM"), (2_100, "SIGINT")];
    let (said, state) = said(OnSignal::CancelRun, None, &signals);
    assert!(said[2].as_ref().unwrap().starts_with("SIGTERM again"), "{said:?}");
    assert_eq!((&said[1], &said[3]), (&None, &None));
    assert_eq!((state.cause, state.later_signal), (Some(Cause::Signal("SIGINT")), Some("SIGTERM")));
}

#[test]
fn a_signal_after_the_deadline_counts_as_the_first() {
    let (said, state) = said(OnSignal::CancelRun, Some(1_000), &[(4_000, "SIGINT")]);
    assert_eq!(said[0].as_deref(), Some("SIGINT: the run is being cancelled; again to leave it"));
    assert!(matches!(state.cause, Some(Cause::Deadline(..))));
    assert_eq!(state.later_signal, None);
}

#[test]
fn the_line_about_a_signal_names_it_and_the_cancel() {
    for on_signal in [OnSignal::NothingToCancel, OnSignal::CancelRun, OnSignal::LeaveRun, OnSignal::StopWaiting] {
        for ending in [false, true] {
            let line = on_signal.first("SIGUSR1", ending);
            assert!(line.starts_with("SIGUSR1: ") && line.contains("cancel"), "{line}");
        }
    }
}

/// Returns whether the descriptor is readable now.
fn is_readable(watch: &Watch) -> bool {
    poll_for(&mut [watch.poll_fd()], Some(Duration::ZERO))
}

#[test]
fn the_descriptor_is_readable_after_the_deadline() {
    let watch = Watch::without_signals().unwrap();
    assert!(!is_readable(&watch));
    watch.arm(Duration::from_millis(20), "--timeout");
    assert!(poll_for(&mut [watch.poll_fd()], None));
    assert!(matches!(watch.cause(), Some(Cause::Deadline(..))));
    assert!(watch.check().is_err() && watch.sleep(Duration::from_secs(60)).is_err());
    assert!(is_readable(&watch), "nobody has read it");
    // The last calls have a deadline of their own.
    let last = watch.last_calls(Duration::from_millis(20));
    assert!(last.check().is_ok() && !is_readable(&last));
    assert!(last.sleep(Duration::from_secs(60)).is_err());
    assert!(last.check().is_err() && last.later_signal().is_none());
    let next = watch.last_calls(Duration::from_secs(60));
    assert!(next.check().is_ok() && !is_readable(&next));
}

#[test]
fn the_last_calls_end_at_a_later_signal() {
    let watch = Watch::without_signals().unwrap();
    watch.state().first_signal = Instant::now().checked_sub(SAME_SIGNAL);
    let last = watch.last_calls(Duration::from_secs(60));
    assert!(last.check().is_ok() && !is_readable(&last));
    watch.announce("SIGTERM");
    watch.wake_thread();
    assert!(poll_for(&mut [last.poll_fd()], None));
    assert!(last.check().is_err() && last.sleep(Duration::from_secs(60)).is_err());
}

#[test]
fn a_wait_ends_with_the_descriptor_or_the_deadline() {
    let watch = Watch::without_signals().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    assert!(watch.sleep(Duration::from_millis(5)).is_ok(), "a sleep ends by itself");
    (&far).write_all(b"x").unwrap();
    assert!(watch.wait_for(near.as_fd(), PollFlags::IN));
    watch.arm(Duration::ZERO, "--timeout");
    assert!(!watch.wait_for(near.as_fd(), PollFlags::IN));
}
