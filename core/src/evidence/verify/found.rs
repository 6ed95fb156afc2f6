//! What was found of one stream.

use super::branch::Effect;
use super::effects::Effects;
use super::fact::{Ended, Life, Source};
use super::verdict::Verdict;
use crate::evidence::note::PublicKey;
use std::ops::Range;
use std::sync::Arc;

/// What is certain of a stream, or becomes so when another record is proved.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The worst that was found of its records as they were read.
    pub(super) read: Option<Verdict>,
    /// What the records show, in order.
    pub(super) effects: Vec<Effect>,
    /// Effects that were only counted.
    pub(super) more_effects: u64,
    /// Heads that contradict each other: their sizes.
    pub(super) forks: Vec<(u64, u64)>,
    /// Heads that the stream's key did not sign: size and place.
    pub(super) unsigned: Vec<(u64, u64)>,
    /// Heads whose key is not known, because the record that names it is not there: size.
    pub(super) unchecked: Vec<u64>,
    /// Statements of others that the records contradict.
    pub(super) denied: Vec<Ended>,
    /// Statements of others that the stream is longer than what is there, and what is absent.
    pub(super) short: Vec<(Ended, Arc<[Range<u64>]>)>,
    /// Statements of others that a head was signed beyond what recovery found.
    pub(super) beyond: Vec<Ended>,
    /// Whether it goes on, as the ledger says.
    pub(super) life: Option<Life>,
    /// Genuine records under a head.
    pub(super) proved: u64,
    /// Size of the largest head that was proved.
    pub(super) size: u64,
    /// Size of the largest head that is there, whether or not its signature could be checked; forged ones do not count.
    pub(super) claimed: u64,
    /// The first key, if a head was proved under it.
    pub(super) first_key: Option<PublicKey>,
    /// Whether a head was proved under a later key that the ledger names for it.
    pub(super) named_key: bool,
    /// Whether the records give the root of a head that the ledger has.
    pub(super) ledger_root: bool,
    /// Whether a head that the ledger knows, or a smaller one, was proved under a key that is neither the first nor named by it.
    pub(super) strange_key: bool,
    /// From where the stream was read, where that is not its start.
    pub(super) restarted: Option<u64>,
    /// Copies of records.
    pub(super) copies: u64,
    /// Records and heads beyond what is looked at.
    pub(super) ignored: u64,
    /// Records, in all.
    pub(super) records: u64,
    /// Earliest and latest time in them; 0: none.
    pub(super) times: (u64, u64),
    /// Earliest and latest time of checkpoints beyond the last head that the ledger knows, within the time that is looked at.
    pub(super) beyond_ledger: Option<(u64, u64)>,
    /// Who says that nothing of it was ever kept.
    pub(super) nothing: Vec<Source>,
    /// Who names it.
    pub(super) named: Vec<Source>,
    /// How many more do.
    pub(super) named_more: u64,
    /// Places of checkpoints within the window of the verification: the first and the last.
    pub(super) window: Option<(u64, u64)>,
    /// The time in the first of them.
    pub(super) window_ns: u64,
}

/// What others say of a stream's end, and fits what is there.
#[derive(Debug)]
pub(super) struct Attested {
    pub(super) ended: Ended,
    /// Who else says the same: anyone can send an altered copy of a record.
    pub(super) also: Vec<Source>,
    /// Effects up to there, since the last head.
    pub(super) effects: Effects,
    /// Genuine records up to there, since the last head.
    pub(super) present: u64,
}
