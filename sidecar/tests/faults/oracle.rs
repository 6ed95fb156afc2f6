//! The counting: what clients asked against what was recorded. Pure, so that it can be shown to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A sealed record of the export, as far as counting needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its stream.
    pub sid: String,
    /// Its place there.
    pub seq: u64,
    /// What it is.
    pub typ: Typ,
    /// Its whole body.
    pub body: String,
}

/// What a record says of exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typ {
    /// One happened. Without a path: it is only known that it began.
    Exchange {
        /// Its path.
        path: Option<String>,
        /// Somebody who came after the death of its process tells it: all that is said, but for the place. It may be told
        /// again, in the same words, by who comes after that one (D3).
        told: Option<String>,
    },
    /// One goes on.
    Stage {
        /// Its path.
        path: Option<String>,
    },
    /// Some have no record.
    Gap {
        /// How many.
        count: u64,
        /// Whether that is exact; if not, it is the least.
        exact: bool,
        /// Why.
        reason: String,
        /// The stream that they were lost with.
        lost_sid: Option<String>,
    },
    /// Many alike.
    Burst {
        /// How many.
        count: u64,
    },
    /// Records that the sink never gets.
    Hole {
        /// Of which stream.
        sid: String,
        /// The first.
        from: u64,
        /// The first after it.
        to: u64,
    },
    /// The clock jumped.
    Clock {
        /// So far forward, in nanoseconds; less than 0: back.
        step_ns: i64,
    },
    /// About the stream itself.
    Other,
}

impl Row {
    /// Whether it is a gap that only knows bounds.
    pub fn is_bound(&self) -> bool {
        matches!(self.typ, Typ::Gap { exact: false, .. })
    }
}

/// A request of the client's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its path, which no other has.
    pub path: String,
    /// Its answer came, or began to.
    pub answered: bool,
    /// The application got it.
    pub reached: bool,
}

/// What a count found wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// Two bodies claim one place in a stream.
    TwoBodies(String, u64),
    /// One exchange stands in two places.
    TwoPlaces(String),
    /// A record of a request that nobody sent.
    Stranger(String),
    /// Two different counts of what was lost with one stream.
    TwoCounts(String),
    /// Exchanges are lost that no gap and no hole declares: how many at least are lost, how many at most are declared.
    Undeclared {
        /// Requests that happened for certain and have no record.
        lost: u64,
        /// What gaps and holes declare.
        declared: u64,
    },
    /// Gaps declare more than can be lost.
    TooMany {
        /// Requests without a record, those too that may never have come to the sidecar.
        lost_at_most: u64,
        /// What gaps declare.
        declared: u64,
    },
    /// A gap does not know how many it counts.
    Inexact(String),
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests in the client's log.
    pub asked: u64,
    /// Of them, those that were answered.
    pub answered: u64,
    /// Requests with a record.
    pub recorded: u64,
    /// Requests that happened for certain (they were answered, or the application got them) and have no record.
    pub lost: BTreeSet<String>,
    /// Requests that were answered, and of which no record tells, not even one that they go on.
    pub untold: BTreeSet<String>,
    /// Requests without an answer that may never have come to the sidecar, and have no record.
    pub doubtful: u64,
    /// What gaps count, by reason, each lost stream once.
    pub gaps: BTreeMap<String, u64>,
    /// Sealed records that a hole says are not here, and that are not.
    pub in_holes: u64,
    /// Records that came more than once.
    pub copies: u64,
    /// Exchanges of a dead process that were told once more, in the same words.
    pub told_again: u64,
    /// What is wrong.
    pub wrong: BTreeSet<Wrong>,
}

impl Count {
    /// What gaps count, altogether.
    pub fn declared(&self) -> u64 {
        self.gaps.values().sum()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} asked, {} answered, {} recorded, {} lost, {} doubtful, gaps {:?}, {} in holes, {} copies, {} told again",
            self.asked,
            self.answered,
            self.recorded,
            self.lost.len(),
            self.doubtful,
            self.gaps,
            self.in_holes,
            self.copies,
            self.told_again
        )
    }
}

/// Counts; `exact`: every gap has to know its number.
pub fn count(requests: &[Request], rows: &[Row], exact: bool) -> Count {
    let mut out = Count { asked: requests.len() as u64, ..Count::default() };
    let places = places(rows, &mut out);
    let known: BTreeMap<&str, &Request> = requests.iter().map(|request| (request.path.as_str(), request)).collect();
    let (mut recorded, mut staged): (BTreeMap<&str, Option<&str>>, BTreeSet<&str>) = Default::default();
    // What was lost with one stream is told by whoever comes after it, perhaps twice, in the same words.
    let mut with_streams: BTreeMap<(&str, &str), (u64, bool)> = BTreeMap::new();
    let mut inexact = false;
    for row in places.values() {
        match &row.typ {
            Typ::Exchange { path: Some(path), told } => {
                if !known.contains_key(path.as_str()) {
                    out.wrong.insert(Wrong::Stranger(path.clone()));
                }
                match recorded.insert(path, told.as_deref()) {
                    None => {}
                    Some(before) if before.is_some() && before == told.as_deref() => out.told_again += 1,
                    Some(_) => drop(out.wrong.insert(Wrong::TwoPlaces(path.clone()))),
                }
            }
            Typ::Exchange { path: None, .. } => *out.gaps.entry("unknown_exchange".to_owned()).or_default() += 1,
            Typ::Stage { path } => staged.extend(path.as_deref()),
            Typ::Gap { count, exact: precise, reason, lost_sid } => {
                inexact |= !precise;
                if exact && !precise {
                    out.wrong.insert(Wrong::Inexact(reason.clone()));
                }
                let before = lost_sid.as_ref().map(|sid| with_streams.insert((sid, reason), (*count, *precise)));
                match before.flatten() {
                    None => *out.gaps.entry(reason.clone()).or_default() += count,
                    Some(before) if before == (*count, *precise) => {}
                    Some(_) => drop(out.wrong.insert(Wrong::TwoCounts(lost_sid.clone().unwrap_or_default()))),
                }
            }
            Typ::Burst { count } => *out.gaps.entry("burst".to_owned()).or_default() += count,
            Typ::Hole { sid, from, to } => {
                out.in_holes += (*from..*to).filter(|seq| !places.contains_key(&(sid.as_str(), *seq))).count() as u64;
            }
            Typ::Clock { .. } | Typ::Other => {}
        }
    }
    out.recorded = recorded.keys().filter(|path| known.contains_key(**path)).count() as u64;
    for request in requests {
        out.answered += u64::from(request.answered);
        if !recorded.contains_key(request.path.as_str()) {
            if request.answered && !staged.contains(request.path.as_str()) {
                out.untold.insert(request.path.clone());
            }
            if request.answered || request.reached {
                out.lost.insert(request.path.clone());
            } else {
                out.doubtful += 1;
            }
        }
    }
    weigh(&mut out, inexact);
    out
}

/// Each place once, and what disagrees about it.
fn places<'a>(rows: &'a [Row], out: &mut Count) -> BTreeMap<(&'a str, u64), &'a Row> {
    let mut places: BTreeMap<(&str, u64), &Row> = BTreeMap::new();
    for row in rows {
        match places.insert((&row.sid, row.seq), row) {
            None => {}
            Some(before) if before.body == row.body => out.copies += 1,
            Some(_) => drop(out.wrong.insert(Wrong::TwoBodies(row.sid.clone(), row.seq))),
        }
    }
    places
}

/// Whether what is lost is what is declared. Gaps with bounds declare the least: where there are some, whoever counts has to
/// show that nothing is lost but what may be (`nodes.rs`).
fn weigh(out: &mut Count, inexact: bool) {
    let (lost, declared) = (out.lost.len() as u64, out.declared());
    if declared + out.in_holes < lost && !inexact {
        out.wrong.insert(Wrong::Undeclared { lost, declared: declared + out.in_holes });
    }
    let lost_at_most = lost + out.doubtful;
    if declared > lost_at_most {
        out.wrong.insert(Wrong::TooMany { lost_at_most, declared });
    }
}
