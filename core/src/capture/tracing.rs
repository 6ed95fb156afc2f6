//! Which trace and which correlation id a request belongs to, and what is added to it.

use super::in_flight::InFlight;
use crate::policy::{Correlation, Direction, TraceContext, WhenAbsent};
use crate::trace::TraceParent;

/// Most candidates named when an inference is ambiguous.
const CANDIDATES_MAX: usize = 8;

/// What a request's head says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// No `traceparent`.
    Nothing,
    /// One that is valid.
    Valid(TraceParent),
    /// One that is not, or several.
    Invalid,
}

/// The decision about a request's trace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// What the record carries.
    pub context: Option<TraceParent>,
    /// `trace_trust` of the record.
    pub trust: &'static str,
    /// Add `traceparent` to the request.
    pub add: bool,
    /// Take the client's `traceparent` and `tracestate` out.
    pub remove: bool,
    /// `inferred_from` of the record.
    pub inferred_from: String,
}

impl Trace {
    fn new(context: Option<TraceParent>, trust: &'static str) -> Self {
        Self { context, trust, add: false, remove: false, inferred_from: String::new() }
    }
}

/// Decides; `random` makes the ids of a new trace.
pub(super) fn trace(
    brought: Brought,
    direction: Direction,
    rules: &Correlation,
    in_flight: &InFlight,
    random: [u128; 2],
) -> Trace {
    let [for_trace, for_span] = random;
    let span = for_span as u64;
    let made = TraceParent::made(for_trace, span, rules.sampled_percent);
    let restart = direction == Direction::Inbound && rules.trace_context == TraceContext::Restart;
    match brought {
        Brought::Nothing => absent(direction, rules, in_flight, made, span),
        _ if restart => Trace { add: true, remove: true, ..Trace::new(Some(made), "restarted") },
        Brought::Valid(context) => Trace::new(Some(context), "client"),
        // Left as it came: we do not know what the application makes of it.
        Brought::Invalid => Trace::new(None, "invalid"),
    }
}

fn absent(direction: Direction, rules: &Correlation, in_flight: &InFlight, made: TraceParent, span: u64) -> Trace {
    let make = rules.when_absent == WhenAbsent::Make;
    let infer = direction == Direction::Outbound && rules.infer_from_single_in_flight && !in_flight.is_empty();
    if infer {
        if let Some(only) = in_flight.single() {
            let context = only.trace.map(|trace| trace.child(span)).or(make.then_some(made));
            let add = make && context.is_some();
            return Trace { add, inferred_from: only.xid.clone(), ..Trace::new(context, "inferred") };
        }
        let context = make.then_some(made);
        let inferred_from = in_flight.xids(CANDIDATES_MAX);
        return Trace { add: make, inferred_from, ..Trace::new(context, "ambiguous") };
    }
    if make { Trace { add: true, ..Trace::new(Some(made), "made") } } else { Trace::new(None, "none") }
}

#[cfg(test)]
mod tests {
    use super::super::in_flight::Candidate;
    use super::*;

    const CLIENT: TraceParent = TraceParent { trace_id: 7, span_id: 8, flags: 1 };

    fn decide(brought: Brought, direction: Direction, rules: &Correlation, open: usize) -> Trace {
        let mut in_flight = InFlight::default();
        for at in 0..open {
            in_flight.begin(Candidate { xid: format!("x{at}"), trace: Some(CLIENT), correlation_id: None });
        }
        trace(brought, direction, rules, &in_flight, [1, 2])
    }

    #[test]
    fn a_valid_context_is_kept_untouched() {
        let kept = decide(Brought::Valid(CLIENT), Direction::Inbound, &Correlation::default(), 0);
        assert_eq!(kept, Trace::new(Some(CLIENT), "client"));
    }

    #[test]
    fn an_outbound_request_joins_the_only_inbound_one() {
        let rules = Correlation::default();
        let joined = decide(Brought::Nothing, Direction::Outbound, &rules, 1);
        assert_eq!((joined.trust, joined.add, joined.inferred_from.as_str()), ("inferred", true, "x0"));
        assert_eq!(joined.context, Some(TraceParent { span_id: 2, ..CLIENT }));
        let unsure = decide(Brought::Nothing, Direction::Outbound, &rules, 2);
        assert_eq!((unsure.trust, unsure.add, unsure.inferred_from.as_str()), ("ambiguous", true, "x0,x1"));
        assert_eq!(unsure.context.map(|c| c.trace_id), Some(1));
        assert_eq!(decide(Brought::Nothing, Direction::Inbound, &rules, 1).trust, "made");
        let off = Correlation { infer_from_single_in_flight: false, ..rules };
        assert_eq!(decide(Brought::Nothing, Direction::Outbound, &off, 1).trust, "made");
    }

    #[test]
    fn policy_decides_about_absent_and_untrusted_contexts() {
        let leave = Correlation { when_absent: WhenAbsent::Leave, ..Correlation::default() };
        let left = decide(Brought::Nothing, Direction::Inbound, &leave, 0);
        assert_eq!(left, Trace::new(None, "none"));
        let restart = Correlation { trace_context: TraceContext::Restart, ..Correlation::default() };
        for brought in [Brought::Valid(CLIENT), Brought::Invalid] {
            let restarted = decide(brought, Direction::Inbound, &restart, 0);
            assert!(restarted.add && restarted.remove && restarted.trust == "restarted");
            assert_eq!(restarted.context.map(|c| c.trace_id), Some(1));
        }
        assert_eq!(decide(Brought::Valid(CLIENT), Direction::Outbound, &restart, 0).trust, "client");
        assert_eq!(decide(Brought::Invalid, Direction::Inbound, &Correlation::default(), 0).trust, "invalid");
    }
}
