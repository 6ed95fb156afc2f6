//! What holds once a record of another stream is proved.

use super::fact::{Source, StreamNo};
use super::settle::Proved;
use super::verdict::Finding;
use crate::evidence::stream::StreamId;

/// What holds once another record is proved.
#[derive(Debug)]
pub(super) struct Condition {
    /// The stream.
    pub(super) about: StreamId,
    pub(super) source: Source,
    /// Who else says the same: one of them that is proved is enough. Anyone can push many, so that they share the rest.
    pub(super) also: Vec<Source>,
    pub(super) yes: Vec<Finding>,
    pub(super) no: Vec<Finding>,
    /// What is to be decided in either case, by other records. The latter proves nothing.
    pub(super) then: Vec<Condition>,
    pub(super) otherwise: Vec<Condition>,
    /// Sources that are proved with it, and records.
    pub(super) sources: Vec<Source>,
    pub(super) proved: u64,
    /// It excuses records by a hole of one sink, though it is not known whose export this is.
    pub(super) of_some_sink: bool,
    /// The stream ended in order.
    pub(super) closed: bool,
    /// It excuses something by the word of another stream: that must be one that somebody vouches for.
    pub(super) excuses: bool,
    /// The stream that it is about, where that is known to nobody who could vouch for it: then another one is as good.
    pub(super) stranger: Option<StreamNo>,
    /// The stream of which all is proved with it.
    pub(super) whole: Option<StreamNo>,
    /// What holds instead once its own source is proved, where this one's is not: anyone can send an altered copy.
    pub(super) others: Vec<Condition>,
}

impl Condition {
    /// Findings that hold once this source is proved.
    pub(super) fn that(about: &StreamId, source: Source, yes: Vec<Finding>) -> Self {
        let (also, no, then, otherwise, sources, others) = Default::default();
        let (about, proved, of_some_sink, closed) = (about.clone(), 0, false, false);
        let (excuses, stranger, whole) = (false, None, None);
        Self {
            about,
            source,
            also,
            yes,
            no,
            then,
            otherwise,
            sources,
            proved,
            of_some_sink,
            closed,
            excuses,
            stranger,
            whole,
            others,
        }
    }

    /// Nobody vouches for its stream; `None`: somebody does.
    pub(super) fn of_a_stranger(&mut self, stranger: Option<StreamNo>) {
        self.stranger = stranger;
        let inner = self.then.iter_mut().chain(&mut self.otherwise).chain(&mut self.others);
        inner.for_each(|condition| condition.of_a_stranger(stranger));
    }

    /// All who say it.
    pub(super) fn said_by(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.source).chain(&self.also)
    }

    /// Whether somebody who says it is proved.
    pub(super) fn is_proved(&self, proved: &Proved) -> bool {
        self.said_by().any(|source| proved.counts(self, source))
    }

    /// What is told of it, without what it proves.
    pub(super) fn told(&mut self) -> Self {
        let told = Self::that(&self.about, self.source, std::mem::take(&mut self.yes));
        Self { proved: self.proved, of_some_sink: self.of_some_sink, closed: self.closed, ..told }
    }

    /// Becomes the first of the others that is proved; whether there is one. What is only alleged waits until no excuse is left.
    pub(super) fn becomes(&mut self, proved: &Proved) -> bool {
        let may = |other: &&Self| proved.is_last_word() || other.excuses || !self.excuses;
        let Some(at) = self.others.iter().position(|other| may(&other) && other.is_proved(proved)) else {
            return false;
        };
        *self = self.others.swap_remove(at);
        true
    }

    /// One of several that speak for the same; the first matters most.
    pub(super) fn first_of(conditions: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut conditions = conditions.into_iter();
        let first = conditions.next()?;
        Some(Self { others: conditions.collect(), ..first })
    }
}
