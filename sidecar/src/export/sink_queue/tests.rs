use super::super::seals::LOSSES_MAX;
use super::*;
use crate::metrics::Metrics;
use crate::spool::{Boot, Place};
use bytes::Bytes;
use testimony_core::evidence::merkle::leaf;

fn queue() -> SinkQueue {
    let (changes, _) = watch::channel(0);
    SinkQueue::new("main", 100, Metrics::default().sink("main"), changes, Arc::default())
}

fn stream() -> StreamId {
    format!("c/n/p/{:032x}-0-0", 1).parse().expect("a name")
}

/// Of one record; each time with a handle of its own.
fn seals(seq: u64) -> Seals {
    Seals::new(Arc::new(stream()), vec![Some((seq, leaf(b"x")))].into())
}

#[test]
fn g2_what_a_broken_export_task_held_is_told_as_a_hole() {
    let (queue, stream) = (queue(), Arc::new(stream()));
    let batch = |seq: u64| Batch {
        log_records: Bytes::from_static(&[0; 40]),
        records: 1,
        first_unix_nanos: 0,
        last_unix_nanos: 0,
        seals: Some(Seals::new(Arc::clone(&stream), vec![Some((seq, leaf(b"x")))].into())),
    };
    assert!(queue.reserve(80, Class::Traffic));
    queue.push(batch(4), 40);
    queue.push(batch(5), 40);
    assert!(!queue.reserve(30, Class::Traffic) && queue.reserve(30, Class::Evidence));
    queue.free(30);
    assert_eq!(queue.take().map(|taken| taken.batches.len()), Some(2));
    queue.abandon_sending();
    let losses = queue.take_losses();
    assert_eq!((losses.len(), losses[0].range.begin(), losses[0].range.end()), (1, 4, 6));
    assert_eq!((queue.snapshot().lost, queue.left()), (2, Undelivered::default()));
    assert!(queue.reserve(100, Class::Traffic), "the bytes are free again");
    queue.return_loss(losses[0].clone());
    assert_eq!(queue.take_losses(), [], "held until something was taken");
    queue.release(0, 0, 1);
    assert_eq!(queue.take_losses().len(), 1);
}

#[test]
fn g2_what_a_refused_hole_told_is_told_again_and_not_before_the_sink_takes_something() {
    let queue = queue();
    let hole =
        |sink: &str| Some(SinkHole { stream: stream(), range: Range::of_leaf(4, leaf(b"y")), sink: sink.to_owned() });
    let told = |queue: &SinkQueue| -> Vec<(u64, u64)> {
        queue.take_losses().iter().map(|loss| (loss.range.begin(), loss.range.end())).collect()
    };
    queue.refuse(1, Some(&seals(4)), None);
    assert_eq!(told(&queue), [], "a hole could be refused, too");
    queue.release(0, 0, 1);
    assert_eq!(told(&queue), [(4, 5)]);
    // It is refused nevertheless; and one of another sink, which says nothing of this one.
    queue.refuse(1, Some(&seals(8)), hole("main"));
    queue.refuse(1, Some(&seals(9)), hole("other"));
    queue.release(0, 0, 1);
    assert_eq!(told(&queue), [], "a sink that refuses holes would get one after each record");
    queue.end_holding();
    assert_eq!(told(&queue), [(8, 10), (4, 5)]);
}

#[test]
fn g2_a_sink_that_refuses_its_holes_too_has_one_hole_to_be_told_of_however_long() {
    let queue = queue();
    queue.refuse(1, Some(&seals(0)), None);
    for seq in 1..=5 {
        queue.end_holding();
        let losses = queue.take_losses();
        assert_eq!(losses.len(), 1, "{seq}");
        for Loss { stream, range, .. } in losses {
            assert_eq!((range.begin(), range.end()), (0, seq));
            let hole = SinkHole { stream: (*stream).clone(), range, sink: "main".to_owned() };
            queue.refuse(1, Some(&seals(seq)), Some(hole));
            queue.loss_is_durable();
        }
    }
}

#[test]
fn g2_what_is_told_by_nobody_for_lack_of_room_stays_untold() {
    let refused = |count: usize| {
        let queue = queue();
        (0..count).for_each(|at| queue.refuse(1, Some(&seals(2 * at as u64)), None));
        queue.end_holding();
        queue
    };
    let boot = Boot([1; 16]);
    let end = Ends::from([(boot, Place::default().next())]);
    let tell = |queue: &SinkQueue| {
        queue.done(end.clone());
        queue.take_losses().iter().for_each(|_| queue.loss_is_durable());
        queue.take_ready()
    };
    assert_eq!(tell(&refused(LOSSES_MAX)), end);
    assert_eq!(tell(&refused(LOSSES_MAX + 1)), Ends::new());
    // One that was taken comes back, and its place is taken.
    let returned = refused(1);
    let losses = returned.take_losses();
    (1..=LOSSES_MAX).for_each(|at| returned.refuse(1, Some(&seals(2 * at as u64)), None));
    losses.into_iter().for_each(|loss| returned.return_loss(loss));
    returned.end_holding();
    assert_eq!(tell(&returned), Ends::new());
    // What is read again is refused again.
    assert!(returned.is_to_be_read_again());
    returned.clear();
    assert!(!returned.is_to_be_read_again());
    assert_eq!(tell(&returned), end);
}

#[test]
fn g2_all_is_read_again_once_nothing_else_waits_of_what_found_no_room() {
    let queue = queue();
    assert!(!queue.is_full_of_losses(true));
    queue.refuse(1, Some(&seals(0)), None);
    assert!(!queue.is_full_of_losses(false) && queue.is_full_of_losses(true));
    (1..=LOSSES_MAX).for_each(|at| queue.refuse(1, Some(&seals(2 * at as u64)), None));
    assert!(!queue.is_to_be_read_again(), "what found room is told first");
    queue.end_holding();
    assert_eq!(queue.take_losses().len(), LOSSES_MAX);
    let batch = Batch {
        log_records: Bytes::from_static(&[0; 40]),
        records: 1,
        first_unix_nanos: 0,
        last_unix_nanos: 0,
        seals: None,
    };
    queue.push(batch, 0);
    assert!(!queue.is_to_be_read_again(), "what was read is sent first");
    assert!(queue.take().is_some() && queue.is_to_be_read_again());
}

#[test]
fn what_waits_in_the_spool_behind_losses_is_as_old_as_what_was_read_last() {
    let queue = queue();
    let oldest = || queue.snapshot().oldest_undelivered_seconds;
    queue.hold_back(true);
    assert_eq!(oldest(), 0, "nothing was read");
    let now_ns = now().wall_ns;
    let sealed = |seconds: u64| now_ns.saturating_sub(seconds * 1_000_000_000);
    let batch = Batch {
        log_records: Bytes::from_static(&[0; 40]),
        records: 1,
        first_unix_nanos: sealed(900),
        last_unix_nanos: sealed(300),
        seals: None,
    };
    queue.push(batch, 0);
    assert!(oldest() >= 900, "{}", oldest());
    assert!(queue.take().is_some());
    queue.taken_is_done();
    assert!((300..900).contains(&oldest()), "{}", oldest());
    queue.hold_back(false);
    assert_eq!(oldest(), 0);
}

#[test]
fn g2_what_is_refused_since_does_not_hold_back_what_holes_tell() {
    let queue = queue();
    let first = Place::default().next();
    let end = |place| Ends::from([(Boot([1; 16]), place)]);
    let refuse = |seq, place| {
        queue.refuse(1, Some(&seals(seq)), None);
        queue.done(end(place));
        queue.end_holding();
    };
    refuse(0, first);
    assert_eq!((queue.take_losses().len(), queue.take_ready()), (1, Ends::new()));
    refuse(1, first.next());
    queue.loss_is_durable();
    assert_eq!(queue.take_ready(), end(first), "and not what was refused since");
    assert_eq!((queue.take_losses().len(), queue.take_ready()), (1, Ends::new()));
    queue.loss_is_durable();
    assert_eq!(queue.take_ready(), end(first.next()));
}

#[test]
fn an_error_without_end_is_not_told_to_the_operator_without_end() {
    let queue = queue();
    queue.set_condition(SinkCondition::Failing, Some("\u{e4}".repeat(40_000)));
    let error = queue.snapshot().error.expect("told");
    assert!((1000..=ERROR_BYTES_MAX).contains(&error.len()), "{}", error.len());
}
