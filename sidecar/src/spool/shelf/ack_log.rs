//! Acknowledgements on disk: lines appended to a log of this process. A new log begins with all that is known, so that the
//! old one can go.

use crate::spool::Boot;
use crate::spool::disk::Disk;
use crate::spool::format::acks::{self, Acks, Line};
use crate::spool::position::Place;
use std::io;

/// A log is followed by another when it is this long.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// Logs in which nothing is known to be durable and that cannot be removed; where there are so many, no other is made.
const STALE_MAX: usize = 16;

/// Beginning of a log's name.
const PREFIX: &str = "acks-";

/// Whether a file is a log of acknowledgements.
pub(in crate::spool) fn is_log(name: &str) -> bool {
    name.starts_with(PREFIX)
}

pub(super) struct AckLog {
    writer: Boot,
    number: u64,
    open: Option<Log>,
    /// Logs that a newer one replaces, once that is durable.
    old: Vec<String>,
    /// Logs that nobody needs, to be removed.
    stale: Vec<String>,
    /// What is durable.
    durable: Acks,
    /// What was appended since, and becomes durable when a sync that is under way has ended.
    syncing: Option<Acks>,
}

struct Log {
    name: String,
    bytes: u64,
    /// A sync of it succeeded.
    is_durable: bool,
}

impl AckLog {
    /// A log of `writer`, in a folder whose logs say this: what they say need not be said again.
    pub(super) fn new(writer: Boot, known: &Acks) -> Self {
        Self {
            writer,
            number: 0,
            open: None,
            old: Vec::new(),
            stale: Vec::new(),
            durable: known.clone(),
            syncing: None,
        }
    }

    /// Where a sink stands durably.
    pub(super) fn durable(&self, sink: &str) -> Option<Place> {
        self.durable.sinks.get(sink).copied()
    }

    /// Whether it is durable that what is here was told.
    pub(super) fn is_recovered(&self) -> bool {
        self.durable.recovered
    }

    /// Writes down where the sinks stand, and waits until that is durable.
    pub(super) fn write<D: Disk>(&mut self, disk: &mut D, sinks: &[(&str, Place)], recovered: bool) -> io::Result<()> {
        // Where a sync is under way, what it does not cover is due afterwards.
        for _ in 0..2 {
            self.begin_write(disk, sinks, recovered)?;
            self.find_synced(disk, |disk, name| Some(disk.end_sync(name)))?;
        }
        Ok(())
    }

    /// The same, but a later call finds that it is durable.
    pub(super) fn begin_write<D: Disk>(
        &mut self,
        disk: &mut D,
        sinks: &[(&str, Place)],
        recovered: bool,
    ) -> io::Result<()> {
        self.find_synced(disk, Disk::synced)?;
        if self.syncing.is_some() {
            return Ok(());
        }
        let news: Vec<(&str, Place)> =
            sinks.iter().filter(|(name, place)| self.durable(name).unwrap_or_default() < *place).copied().collect();
        if news.is_empty() && recovered == self.durable.recovered {
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|log| log.bytes >= LOG_BYTES_MAX) {
            self.leave(disk);
        }
        let mut lines = Vec::new();
        if recovered && (!self.durable.recovered || self.open.is_none()) {
            acks::append(&mut lines, &Line::Recovered);
        }
        let told = if self.open.is_some() { &news } else { sinks };
        told.iter().for_each(|(name, place)| acks::append(&mut lines, &Line::Sink(name, *place)));
        if let Err(error) = self.append(disk, &lines) {
            self.leave(disk);
            return Err(error);
        }
        let mut syncing = Acks { recovered, ..self.durable.clone() };
        syncing.sinks.extend(sinks.iter().map(|(name, place)| ((*name).to_owned(), *place)));
        self.syncing = Some(syncing);
        Ok(())
    }

    /// Takes note of a sync that has ended, as `how` finds it.
    fn find_synced<D: Disk>(
        &mut self,
        disk: &mut D,
        how: impl FnOnce(&mut D, &str) -> Option<io::Result<()>>,
    ) -> io::Result<()> {
        let (Some(acks), Some(log)) = (self.syncing.take(), &mut self.open) else { return Ok(()) };
        match how(disk, &log.name) {
            None => self.syncing = Some(acks),
            Some(Ok(())) => {
                log.is_durable = true;
                self.durable = acks;
                self.stale.append(&mut self.old);
                self.clear(disk);
            }
            Some(Err(error)) => {
                self.leave(disk);
                return Err(error);
            }
        }
        Ok(())
    }

    fn append<D: Disk>(&mut self, disk: &mut D, lines: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            self.clear(disk);
            if self.stale.len() >= STALE_MAX {
                return Err(io::Error::other("logs of acknowledgements can be neither written nor removed"));
            }
            let name = format!("{PREFIX}{}-{:010}", self.writer, self.number);
            self.number += 1;
            disk.create(&name)?;
            self.open = Some(Log { name: name.clone(), bytes: 0, is_durable: false });
            let mut beginning = Vec::new();
            acks::begin(&mut beginning);
            disk.append(&name, &beginning)?;
        }
        let Some(log) = &mut self.open else { return Ok(()) };
        log.bytes = log.bytes.saturating_add(lines.len() as u64);
        disk.append(&log.name, lines)?;
        disk.begin_sync(&log.name)
    }

    fn clear<D: Disk>(&mut self, disk: &mut D) {
        self.stale.retain(|name| disk.remove(name).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
    }

    /// Ends the log, unless a sync of it is under way.
    pub(super) fn close<D: Disk>(&mut self, disk: &mut D) {
        if self.syncing.is_none() {
            self.leave(disk);
        }
    }

    /// No more is appended to this log: it is full, or nobody knows what stands in it.
    fn leave<D: Disk>(&mut self, disk: &mut D) {
        let Some(log) = self.open.take() else { return };
        disk.close(&log.name);
        if log.is_durable {
            self.old.push(log.name);
        } else {
            self.stale.push(log.name);
            self.clear(disk);
        }
    }
}
