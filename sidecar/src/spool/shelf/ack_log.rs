//! Acknowledgements on disk: lines appended to a log of this process. A new log begins with all that is known, so that the
//! old one can go.

use crate::spool::Boot;
use crate::spool::disk::Disk;
use crate::spool::format::acks::{self, Line};
use crate::spool::position::Place;
use std::collections::BTreeMap;
use std::io;

/// A log is followed by another when it is this long.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// Beginning of a log's name.
const PREFIX: &str = "acks-";

/// Whether a file is a log of acknowledgements.
pub(in crate::spool) fn is_log(name: &str) -> bool {
    name.starts_with(PREFIX)
}

pub(super) struct AckLog {
    writer: Boot,
    number: u64,
    open: Option<(String, u64)>,
    /// Logs that a newer one replaces.
    old: Vec<String>,
    /// What is durable.
    written: BTreeMap<String, Place>,
    recovered: bool,
}

impl AckLog {
    pub(super) fn new(writer: Boot) -> Self {
        Self { writer, number: 0, open: None, old: Vec::new(), written: BTreeMap::new(), recovered: false }
    }

    /// Makes durable where the sinks stand.
    pub(super) fn write<D: Disk>(&mut self, disk: &mut D, sinks: &[(&str, Place)], recovered: bool) -> io::Result<()> {
        let is_news = |(name, place): &&(&str, Place)| self.written.get(*name).copied().unwrap_or_default() < *place;
        let news: Vec<(&str, Place)> = sinks.iter().filter(is_news).copied().collect();
        if news.is_empty() && recovered == self.recovered {
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|(_, bytes)| *bytes >= LOG_BYTES_MAX) {
            self.leave(disk);
        }
        let mut lines = Vec::new();
        if recovered && (!self.recovered || self.open.is_none()) {
            acks::append(&mut lines, &Line::Recovered);
        }
        let told = if self.open.is_some() { &news } else { sinks };
        told.iter().for_each(|(name, place)| acks::append(&mut lines, &Line::Sink(name, *place)));
        if let Err(error) = self.append(disk, &lines) {
            self.leave(disk);
            return Err(error);
        }
        self.recovered = recovered;
        self.written.extend(sinks.iter().map(|(name, place)| ((*name).to_owned(), *place)));
        self.old.retain(|name| disk.remove(name).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
        Ok(())
    }

    fn append<D: Disk>(&mut self, disk: &mut D, lines: &[u8]) -> io::Result<()> {
        let is_new = self.open.is_none();
        if is_new {
            let name = format!("{PREFIX}{}-{:010}", self.writer, self.number);
            self.number += 1;
            disk.create(&name)?;
            self.open = Some((name.clone(), 0));
            let mut beginning = Vec::new();
            acks::begin(&mut beginning);
            disk.append(&name, &beginning)?;
        }
        let Some((name, bytes)) = &mut self.open else { return Ok(()) };
        *bytes = bytes.saturating_add(lines.len() as u64);
        disk.append(name, lines)?;
        disk.sync(name)?;
        if is_new { disk.sync_folder() } else { Ok(()) }
    }

    /// No more is appended to this log: it is full, or nobody knows what stands in it.
    fn leave<D: Disk>(&mut self, disk: &mut D) {
        if let Some((name, _)) = self.open.take() {
            disk.close(&name);
            self.old.push(name);
        }
    }
}
