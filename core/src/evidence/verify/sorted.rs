//! From the sorted rows of ledgers to what they say: a first pass reads them, a second one only where something is wrong, or where
//! records were abandoned.

use super::judge::Settings;
use super::ledger::{absent, alarm, refused, stranger};
use super::older::{Best, Older};
use super::part::Part;
use super::trust::Ledger;
use super::verdict::{Finding, Verdict};
use crate::evidence::ledger::export::head_body;
use crate::evidence::ledger::pass::{Reading, Said, Unread, Why};
use crate::evidence::ledger::pick::{Picker, WAITING_BYTES_MAX};
use crate::evidence::ledger::rows::{Role, Row, rows, sorted};
use crate::evidence::ledger::shown::Times;
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// Most ledgers of which the roots say nothing that are told one by one; the others are counted.
const STRANGERS_MAX: usize = 64;

/// What ledgers are read with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Keys of the trust roots: nothing but what one of them signed counts.
    pub keys: &'a [NamedKey],
    /// Heads that somebody kept (W3): each stands among the ledger's own, so that its size is the least that the ledger must have,
    /// and what it covers must be there unchanged.
    pub kept: &'a [SignedNote],
    /// Only this cluster is looked at: what claims to be the ledger of another one, and of which the roots say nothing, is none of it.
    pub cluster: Option<&'a str>,
    /// How far streams had come at these times matters: see `Settings::times`.
    pub times: Times,
    /// Most bytes of bodies that may wait for a head of their ledger; `None`: [`WAITING_BYTES_MAX`].
    pub waiting_max: Option<usize>,
}

impl<'a> Asked<'a> {
    /// What a verification with these settings asks.
    pub fn of(keys: &'a [NamedKey], settings: &'a Settings) -> Self {
        Self { keys, cluster: settings.cluster(), times: settings.times(), ..Self::default() }
    }
}

/// Gives each row once, sorted by its bytes and without repeats; as often as it is asked.
pub type Rows<'a, E> = &'a mut dyn FnMut(&mut dyn FnMut(&[u8])) -> Result<(), E>;

impl Ledger {
    /// Reads ledgers from bodies in any order; `keys` are those of the trust roots. A ledger that is not whole does not count at
    /// all: what is wrong is told in findings.
    pub fn read(keys: &[NamedKey], bodies: &[String]) -> (Option<Self>, Vec<Finding>) {
        Self::read_asked(&Asked { keys, ..Asked::default() }, bodies)
    }

    /// The same, as it is asked.
    pub fn read_asked(asked: &Asked<'_>, bodies: &[String]) -> (Option<Self>, Vec<Finding>) {
        let kept: Vec<Vec<u8>> = asked.kept.iter().map(|note| head_body(&note.encode())).collect();
        let all = sorted(bodies.iter().map(|body| body.as_bytes()).chain(kept.iter().map(Vec::as_slice)));
        let each = &mut |take: &mut dyn FnMut(&[u8])| {
            all.iter().for_each(|row| take(row));
            Ok::<_, Infallible>(())
        };
        match Self::read_sorted(asked, each) {
            Ok(read) => read,
            Err(never) => match never {},
        }
    }

    /// The same, from rows as [`Self::rows`] and [`Self::kept_rows`] make them, which may stand outside of memory.
    ///
    /// # Errors
    /// What `each` says.
    pub fn read_sorted<E>(asked: &Asked<'_>, each: Rows<'_, E>) -> Result<(Option<Self>, Vec<Finding>), E> {
        let mut first = First::new(asked);
        each(&mut |row| first.row(row))?;
        first.close();
        let First { read, there, strangers, more_strangers, .. } = first;
        let mut second: BTreeMap<StreamId, Second<'_>> =
            read.iter().filter_map(|(sid, read)| Some((sid.clone(), Second::of(asked, sid, read)?))).collect();
        if !second.is_empty() {
            let mut row = |row: &[u8]| {
                let row = Row::read(row);
                let of = row.and_then(|row| Some((second.get_mut(&row.ledger.parse::<StreamId>().ok()?)?, row)));
                of.into_iter().for_each(|(second, row)| second.row(&row));
            };
            each(&mut row)?;
        }
        let mut second: BTreeMap<StreamId, Told> =
            second.into_iter().map(|(sid, second)| (sid, second.finish())).collect();
        let mut findings: Vec<Finding> = strangers.iter().map(|sid| stranger(sid, asked.keys)).collect();
        findings.extend((more_strangers > 0).then(|| strange(more_strangers, asked.keys)));
        let mut ledger: Option<Self> = None;
        for (sid, read) in read {
            let told = second.remove(&sid).unwrap_or_default();
            match read {
                Err(problem) => findings.extend(unread(&sid, &problem, told)),
                Ok(said) => {
                    let summary = said.summary;
                    let behind = summary.unproved.saturating_sub(summary.refused.count());
                    findings.extend((behind > 0).then(|| Self::behind_its_head(&sid, behind)));
                    findings.extend(refused(&sid, summary.refused));
                    findings.extend(summary.others.iter().filter_map(|(seq, fact)| alarm(*seq, fact)));
                    let mut said = Self::of(&sid, summary);
                    said.older_heads(told.heads);
                    if !ledger.get_or_insert_with(|| Self::empty(&said.cluster_uid)).join(said) {
                        let message =
                            format!("ledger {sid} is another cluster's, and was not used: give its roots alone");
                        findings.push(Finding::export(Verdict::Unanchored, message));
                    }
                }
            }
        }
        findings.extend(
            asked.keys.iter().filter(|named| !there.contains(&named.name)).map(|named| absent(named, asked.kept)),
        );
        Ok((ledger, findings))
    }

    /// Gives the rows of a body, to be sorted by their bytes; tells whether it claims to be an entry of a ledger.
    pub fn rows(body: &str, give: impl FnMut(&[u8])) -> bool {
        rows(body.as_bytes(), give)
    }

    /// Gives the rows of a head that somebody kept.
    pub fn kept_rows(note: &SignedNote, give: impl FnMut(&[u8])) {
        rows(&head_body(&note.encode()), give);
    }

    /// Up to where what was abandoned begins, records may be there that no head in the export covers: the ledger's own do.
    fn older_heads(&mut self, heads: Best) {
        for ((sid, _), head) in heads {
            let stream = self.streams.get_mut(&sid).filter(|stream| !stream.heads.contains(&head));
            stream.into_iter().for_each(|stream| stream.heads.push(head));
        }
    }
}

/// Further ledgers of which the roots say nothing.
fn strange(count: u64, keys: &[NamedKey]) -> Finding {
    let verdict = if keys.is_empty() { Verdict::Unanchored } else { Verdict::Foreign };
    Finding::export(verdict, format!("entries of {count} further ledgers whose keys are not in the roots"))
}

/// What it means that a ledger cannot be read.
fn unread(sid: &StreamId, problem: &Unread, told: Told) -> Vec<Finding> {
    if let Some(part) = told.part {
        return part.findings(sid);
    }
    if *problem == Unread::Over {
        let message = format!("ledger {sid} was not used: {problem}");
        return vec![Finding::export(Verdict::Unanchored, message)];
    }
    let problem = told.why.unwrap_or_else(|| problem.to_string());
    let message = format!("ledger {sid} is not what was signed, or not whole, and was not used: {problem}");
    vec![Finding::export(Verdict::Tampered, message)]
}

/// The first pass.
struct First<'a> {
    asked: &'a Asked<'a>,
    /// The ledger that is read, if the roots have its key.
    now: Option<(StreamId, Reading)>,
    /// Whose rows these are, and whether one of them claims to be an entry.
    name: String,
    entries: bool,
    /// Ledgers of the roots of which entries are there.
    there: BTreeSet<String>,
    read: BTreeMap<StreamId, Result<Said, Unread>>,
    strangers: Vec<String>,
    more_strangers: u64,
}

impl<'a> First<'a> {
    fn new(asked: &'a Asked<'a>) -> Self {
        Self {
            asked,
            now: None,
            name: String::new(),
            entries: false,
            there: BTreeSet::new(),
            read: BTreeMap::new(),
            strangers: Vec::new(),
            more_strangers: 0,
        }
    }

    fn row(&mut self, row: &[u8]) {
        let Some(row) = Row::read(row) else { return };
        if row.ledger != self.name {
            self.close();
            self.name = row.ledger.to_owned();
            let Asked { keys, times, .. } = self.asked;
            let named = keys.iter().find(|named| named.name == row.ledger);
            let reading = |named: &NamedKey| Reading::new(row.ledger, named.key, *times, waiting_max(self.asked));
            self.now = named.and_then(|named| Some((row.ledger.parse().ok()?, reading(named))));
        }
        self.entries |= row.role == Role::Entry;
        if let Some((_, reading)) = &mut self.now {
            reading.row(&row);
        }
    }

    /// The ledger's rows are over. One of which there are only heads is not there.
    fn close(&mut self) {
        let (now, name) = (self.now.take(), std::mem::take(&mut self.name));
        if !std::mem::take(&mut self.entries) {
            return;
        }
        match now {
            Some((sid, reading)) => {
                self.there.insert(name);
                self.read.insert(sid, reading.finish());
            }
            None if self.asked.cluster.is_some_and(|only| name.split('/').next() != Some(only)) => {}
            None if self.strangers.len() < STRANGERS_MAX => self.strangers.push(name),
            None => self.more_strangers = self.more_strangers.saturating_add(1),
        }
    }
}

fn waiting_max(asked: &Asked<'_>) -> usize {
    asked.waiting_max.unwrap_or(WAITING_BYTES_MAX)
}

/// What a second pass tells.
#[derive(Default)]
struct Told {
    part: Option<Part>,
    why: Option<String>,
    heads: Best,
}

/// A second pass over one ledger.
enum Second<'a> {
    /// What is wrong with it, and whether it is a part in which reading cannot begin.
    Why(Box<(Option<Why>, Part)>),
    /// Which heads it has of streams of which records were abandoned.
    Older(Box<Picker>, Older<'a>),
}

impl<'a> Second<'a> {
    fn of(asked: &Asked<'_>, sid: &StreamId, read: &'a Result<Said, Unread>) -> Option<Self> {
        let named = asked.keys.iter().find(|named| named.name == sid.as_str())?;
        match read {
            Err(Unread::Over | Unread::Contradiction(_)) => None,
            Err(problem) => {
                let why = if let Unread::Unproved(end) = problem { Some(Why::new(named.key, *end)) } else { None };
                Some(Self::Why(Box::new((why, Part::new(sid, named)))))
            }
            Ok(said) => {
                let older = Older::of(said)?;
                Some(Self::Older(Box::new(Picker::new(sid.as_str(), named.key, waiting_max(asked))), older))
            }
        }
    }

    fn row(&mut self, row: &Row<'_>) {
        match self {
            Self::Why(wrong) => {
                let (why, part) = &mut **wrong;
                why.iter_mut().for_each(|why| why.row(row));
                part.row(row);
            }
            Self::Older(picker, older) => {
                older.row(row);
                picker.row(row, older);
            }
        }
    }

    fn finish(self) -> Told {
        match self {
            Self::Why(wrong) => {
                let (why, part) = *wrong;
                Told { part: part.whole(), why: why.map(Why::finish), ..Told::default() }
            }
            Self::Older(mut picker, mut older) => {
                picker.end(&mut older);
                Told { heads: older.best, ..Told::default() }
            }
        }
    }
}
